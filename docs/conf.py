"""The site: ``sphinx-build -W docs docs/_build/html`` (``pip install -e ".[docs]"``).

The pages are also read in the repository. Therefore they link to files beside docs/, such as
CONTRIBUTING.md: ``adapt_links`` turns such links into links to the pages that show these files.
``TUTORIALS=short`` executes the tutorials with few epochs, for a test.
"""

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from sphinx.application import Sphinx

from vae_lightning.version import __version__

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
# files beside docs/ that are pages of the site: the page holds nothing but a link to the file
SHOWN = {
    "contributing": ROOT / "CONTRIBUTING.md",
    "changelog": ROOT / "CHANGELOG.md",
    "benchmarks": ROOT / "benchmarks" / "README.md",
    "reference/run_folder": ROOT / "outputs" / "README.md",
}
PAGES = {file: DOCS / f"{page}.md" for page, file in SHOWN.items()} | {
    ROOT / "README.md": DOCS / "index.md"
}
EPOCHS = re.compile(r"(?<=trainer\.max_epochs=)\d+")
TITLE = re.compile(r"^# .*$", re.MULTILINE)
SHORT = """\\g<0>

:::{note}
In this short build, runs train for two epochs only. Numbers and pictures are therefore worse
than the text says.
:::"""
LINK = re.compile(r"\]\((?!https?:)([^)\s#]+)(#[^)\s]*)?\)")

project = "vae_lightning"
author = "the vae_lightning authors"
project_copyright = author
release = version = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx-mathjax-offline",
]
exclude_patterns = ["_build", "results/runs"]

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4
nb_execution_mode = "force"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_in_temp = True
# the commands of the tutorials run with this Python, and its kernels start with bash_cells.py
settings = tempfile.TemporaryDirectory()
startup = Path(settings.name, "profile_default", "startup")
startup.mkdir(parents=True)
shutil.copy(DOCS / "bash_cells.py", startup)
os.environ["IPYTHONDIR"] = settings.name
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
smartquotes_action = "qe"  # not D, which would make a dash of the -- of flags
copybutton_exclude = ".linenos, .gp, .go, .c1"

html_theme = "furo"
html_title = f"vae_lightning {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False


def adapt_links(_: Sphinx, page: str, source: list[str]) -> None:
    """Shows the files of SHOWN, and lets the links of a page lead to pages of the site."""
    file = DOCS / f"{page}.md"
    origin = SHOWN.get(page, file)
    if page in SHOWN:
        source[0] = origin.read_text()

    def adapted(match: re.Match[str]) -> str:
        path, anchor = match[1], match[2] or ""
        target = (origin.parent / path).resolve()
        if target.is_dir():
            target = PAGES.get(target / "README.md", DOCS / "options.md")
        place = PAGES.get(target, target)
        if not place.is_relative_to(DOCS):
            anchor = ""  # the file itself, to open or to save
        scheme = "" if place.is_relative_to(DOCS) else "path:"
        return f"]({scheme}{os.path.relpath(place, file.parent)}{anchor})"

    source[0] = LINK.sub(adapted, source[0])


def shorten(_: Sphinx, page: str, source: list[str]) -> None:
    """Lets the tutorials train for two epochs if ``TUTORIALS=short``, and say so."""
    if page.startswith("tutorials/") and os.environ.get("TUTORIALS") == "short":
        source[0] = TITLE.sub(SHORT, EPOCHS.sub("2", source[0]), count=1)


def setup(app: Sphinx) -> None:
    """Changes the text of each page before it is parsed."""
    app.connect("source-read", adapt_links)
    app.connect("source-read", shorten)
