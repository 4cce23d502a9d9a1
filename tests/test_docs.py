"""The documents are true: functions, tests, links, commands, and the extensions of extend.md."""

import ast
import functools
import re
import shlex
from pathlib import Path

import pytest
import yaml

from helpers import Command
from vae_lightning.__main__ import COMMANDS
from vae_lightning.cli.help import GROUPS
from vae_lightning.config import options
from vae_lightning.config.compose import choices, compose
from vae_lightning.config.options import check
from vae_lightning.sample import OPTIONS as SAMPLE_OPTIONS
from vae_lightning.sweeps.start import list_jobs

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(
    page
    for page in [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), ROOT / "outputs" / "README.md"]
    if not page.is_relative_to(DOCS / "_build")
)
NAMED_LINK = re.compile(r"\[`([\w.]+)`\]\(\.\./([\w/.]+)\)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(r"(?:-m vae_lightning\.|\bvae )(\w+) ?([^\n`#]*)")
# words of commands that cannot be composed: placeholders, and classes that a page defines
UNKNOWN = {"--config-dir", "--help", "objective=renyi", "..."}
NAMED_OPTION = re.compile(r"`([a-z_]+(?:\.[a-z_]+)*)=([^`\s]*)`")
OWN_OPTIONS = {"CHANGELOG.md", "CONTRIBUTING.md", "extend.md"}  # pages about options of your own


def anchors(page: str) -> set[str]:
    """The anchors of the headings of a Markdown page."""
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    ("name", "file"), sorted(set(NAMED_LINK.findall((ROOT / "docs" / "derivation.md").read_text())))
)
def test_every_function_and_test_of_the_derivation_exists(name: str, file: str) -> None:
    text = (ROOT / file).read_text()
    for part in name.split("."):
        assert re.search(rf"^\s*(def|class) {part}\b", text, re.MULTILINE), f"{file} has no {part}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text()), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_composes(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "require_packages", lambda *_: None)
    for name, text in COMMAND.findall(page.read_text().replace("\\\n", " ")):
        words = [word for word in shlex.split(text) if not word.startswith("resume=")]
        is_pattern = any(word.startswith("[") for word in words)  # [key=value ...]
        if name not in COMMANDS or is_pattern or UNKNOWN & set(words):
            continue
        if words[:1] == ["-m"]:
            list_jobs([word for word in words[1:] if word not in ("--cfg", "job")], None)
        elif name == "train":
            check(compose("config", words))
        elif name == "report":
            assert not any("=" in word for word in words), words
        else:
            compose(name, words)


@functools.cache
def described_keys() -> set[str]:
    """The keys in the generated pages, which other tests compare with the code."""
    pages = ("options.md", "trainer.md", "reference/commands.md", "how_to/hydra.md")
    keys = re.findall(
        r"^\| `([\w.]+)` \|", "\n".join((DOCS / page).read_text() for page in pages), re.MULTILINE
    )
    return {*keys, "resume"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_option_that_a_text_names_exists(page: Path) -> None:
    if page.name in OWN_OPTIONS:
        return
    for key, value in NAMED_OPTION.findall(page.read_text()):
        if "." in key:
            assert key in described_keys(), f"{key}={value}"
        elif key in GROUPS and re.fullmatch(r"[a-z_]+", value):
            is_option = key in SAMPLE_OPTIONS and SAMPLE_OPTIONS[key].range.contains(value)
            assert is_option or value in choices(key), f"{key}={value}"


def test_the_readme_has_at_most_120_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_the_python_and_yaml_of_the_contribution_guide_parse() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for code in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        ast.parse(code)
    (node,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert yaml.safe_load(node)["_target_"] == "vae_lightning.objectives.Renyi"


@pytest.mark.slow
def test_the_examples_of_python_md_run_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "python.md").read_text()
    found: dict[str, object] = {}
    codes = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    for code in codes:
        exec(re.sub(r"(max_epochs=\d)0", r"\1", code), found)  # a tenth of the epochs
    assert {name: getattr(found[name], "shape", None) for name in ("samples", "codes", "new")} == {
        "samples": (16, 1, 8, 8),
        "codes": (1797, 2),
        "new": (10, 64),
    }
    assert len(list(tmp_path.glob("outputs/*/*"))) == 1  # of the thread


@pytest.mark.slow
def test_a_users_own_network_objective_and_data_work_by_the_words_of_extend(
    train: Command, tmp_path: Path
) -> None:
    text = (ROOT / "docs" / "extend.md").read_text()
    codes, nodes = (
        re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL) for kind in ("python", "yaml")
    )
    (tmp_path / "mine.py").write_text("\n".join(codes))
    files = re.findall(r"`my_conf/(\w+/\w+\.yaml)`", text)
    for file, node in zip(files, nodes, strict=True):
        (tmp_path / "my_conf" / file).parent.mkdir(parents=True)
        (tmp_path / "my_conf" / file).write_text(node)
    choices = ("model=wide", "objective=free_nats", "data=stripes")
    small = ("model.width=10", "trainer.max_epochs=1")
    result = train("--config-dir", "my_conf", *choices, *small, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (run,) = tmp_path.glob("outputs/*/*")
    config = (run / ".hydra" / "config.yaml").read_text()
    assert all(name in config for name in ("mine.WideEncoder", "mine.FreeNats", "mine.Stripes"))
