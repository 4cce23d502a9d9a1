"""A lock that allows one training process per run folder."""

from contextlib import AbstractContextManager
from pathlib import Path

from filelock import FileLock, Timeout

from vae_lightning.checks.errors import ConfigError


def claim(run: Path) -> AbstractContextManager[object]:
    """Locks the run folder for this process; raises ConfigError if another process has the lock."""
    try:
        return FileLock(run / ".lock").acquire(blocking=False)
    except Timeout as error:
        raise ConfigError(
            f"resume={run}: must not be running (another process is training in this folder)"
        ) from error
