"""Two versions of this package side by side: a git revision and a copy of the current files."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("vae_lightning", "conf")  # what the commands of the package require
BEFORE_LAYOUT = "471aca4"  # the last commit before the modules were sorted into folders


class Checkouts(NamedTuple):
    """The folders of both versions."""

    old: Path
    new: Path


@contextmanager
def checkouts(revision: str) -> Iterator[Checkouts]:
    """Creates both versions in a temporary folder, which exists within the context.

    The current files are copied, so that edits during a measurement do not affect it. Raises
    subprocess.CalledProcessError if git does not know the revision.
    """
    with tempfile.TemporaryDirectory() as temporary:
        sides = Checkouts(Path(temporary) / "old", Path(temporary) / "new")
        for part in PARTS:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / part, sides.new / part, ignore=ignored)
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(sides.old), revision], check=True)
        try:
            yield sides
        finally:
            subprocess.run([*git, "remove", "--force", str(sides.old)], check=True)


def environment(checkout: Path, **variables: str) -> dict[str, str]:
    """Returns the environment in which Python imports the package from a checkout.

    The working directory of the command must not contain another version of the package, because
    Python searches it first.
    """
    return os.environ | {"PYTHONPATH": str(checkout)} | variables
