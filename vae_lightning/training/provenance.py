"""Where the numbers of a run come from: versions of packages and the state of the code."""

import logging
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from vae_lightning.checks.errors import ConfigError
from vae_lightning.storage.files import read_json, write_json, write_text
from vae_lightning.storage.run_folder import ENVIRONMENT, UNCOMMITTED
from vae_lightning.version import __version__

log = logging.getLogger(__name__)

PACKAGES = (
    "torch",
    "torchvision",
    "lightning",
    "hydra-core",
    "omegaconf",
    "numpy",
)
CHECKOUT = Path(__file__).resolve().parents[2]
INITIAL = "init_from"  # in ENVIRONMENT
MAX_DIFFERENCE_BYTES = 1_000_000


def write_provenance(run: Path, initial: Mapping[str, str] | None = None) -> None:
    """Writes versions, revision and machine, and what the checkout had not committed.

    ``initial`` says which weights the run started from; a run that continues keeps what it had
    recorded. Raises ConfigError if a run that starts again would start from other weights.
    """
    commit = revision()
    content: dict[str, object] = {
        "versions": versions(),
        "revision": commit,
        "machine": platform.platform(),
    }
    recorded = read_json(run / ENVIRONMENT).get(INITIAL)
    if initial and recorded not in (None, initial):
        raise ConfigError(
            f"init_from={initial['source']}: must hold the weights from which the run first started"
        )
    if initial or recorded:
        content[INITIAL] = initial or recorded
    write_json(run / ENVIRONMENT, content)
    if commit and commit.endswith("-dirty") and (difference := uncommitted()):
        write_text(run / UNCOMMITTED, difference)


def versions() -> str:
    """The versions of Python and of the packages that numbers depend on."""
    packages = [f"{name} {version(name)}" for name in PACKAGES]
    # a checkout that is not installed has no metadata
    own = f"vae_lightning {__version__}"
    return ", ".join([f"python {platform.python_version()}", *packages, own])


def revision() -> str | None:
    """The commit of the checkout that this code runs from, with -dirty if it was changed.

    None outside a checkout.
    """
    return git("describe", "--always", "--dirty", "--abbrev=40", "--match=")


def uncommitted() -> str | None:
    """What the checkout that this code runs from has not committed; None without a difference."""
    difference = git("diff", "HEAD", "--", "vae_lightning", "conf")
    if difference and len(difference) > MAX_DIFFERENCE_BYTES:
        return f"The difference has {len(difference)} characters and is not recorded.\n"
    return f"{difference}\n" if difference else None


def git(*arguments: str) -> str | None:
    """The output of git in the checkout that this code runs from; None outside a checkout."""
    if not (CHECKOUT / ".git").exists():
        return None
    command = ["git", "-C", str(CHECKOUT), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        log.warning("the revision is not recorded: %s", error)
        return None
