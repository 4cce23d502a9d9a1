"""A lock that allows one training process per run folder."""

from contextlib import AbstractContextManager
from pathlib import Path

from filelock import FileLock, Timeout

from vae_lightning.checks.errors import ConfigError

LOCK = ".lock"  # the file in a run folder


def claim(run: Path, key: str = "resume") -> AbstractContextManager[object]:
    """Locks the run folder for this process.

    Raises ConfigError, with ``key`` in the message, if another process has the lock.
    """
    try:
        return FileLock(run / LOCK).acquire(blocking=False)
    except Timeout as error:
        raise ConfigError(
            f"{key}={run}: must not be running (another process is training in this folder)"
        ) from error
