"""Runs commands of this package from two checkouts: another revision and the current files."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CURRENT = Path(__file__).resolve().parent.parent
BEFORE_LAYOUT = "471aca4"  # the last commit before the modules were sorted into folders


@contextmanager
def worktree(revision: str) -> Iterator[Path]:
    """Checks out a revision into a temporary folder, which exists within the context.

    Raises subprocess.CalledProcessError if git does not know the revision.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "checkout"
        git = ["git", "-C", str(CURRENT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(folder), revision], check=True)
        try:
            yield folder
        finally:
            subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def environment(checkout: Path, **variables: str) -> dict[str, str]:
    """Returns the environment in which Python imports the package from a checkout.

    The working directory of the command must not contain another checkout, because Python
    searches it first.
    """
    return os.environ | {"PYTHONPATH": str(checkout)} | variables
