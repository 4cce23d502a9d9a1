"""Reads what a run folder holds, except its weights; needs neither torch nor the data."""

import re
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from vae_lightning.checks.errors import ConfigError, one_line
from vae_lightning.runs.untrusted import check_links, read_config, read_overrides
from vae_lightning.storage.files import read_csv, read_json
from vae_lightning.storage.run_folder import ENVIRONMENT, IMAGES, STATES, SWEEP

# files of a run folder
CONFIG = Path(".hydra", "config.yaml")
OVERRIDES = Path(".hydra", "overrides.yaml")


class StoredRun(NamedTuple):
    """The configuration and the state of a run."""

    cfg: DictConfig
    overrides: list[str]  # what was typed
    state: str  # see run_folder.STATES; "state unknown" if status.json is missing
    version: str  # of this package, which wrote the run; "unknown" if that is not recorded
    epochs: int  # finished epochs, as metrics.csv says
    steps: int  # optimizer steps at its last row


def require_run(run: Path, key: str) -> None:
    """Raises ConfigError, with ``key`` in the message, unless the folder contains a run."""
    if not (run / CONFIG).is_file():
        if (run / SWEEP).is_file():
            best = f"{key}={run / 'best'} is its best run"
            meant = f"sweep resume={run} continues it" if key == "resume" else best
            raise ConfigError(f"{key}={run}: must be a run folder, but is a sweep; {meant}")
        raise ConfigError(f"{key}={run}: must be a run folder (no {CONFIG} there)")


def read_stored(run: Path, key: str) -> StoredRun:
    """Reads the configuration and the state of a run; see ``untrusted.read_config``.

    Raises ConfigError, with ``key`` in the message, if the folder contains no run, a damaged one,
    or one that could do harm.
    """
    require_run(run, key)
    check_links(run, key)
    state = read_optional_json(run / "status.json", key).get("state")
    versions = read_optional_json(run / ENVIRONMENT, key).get("versions", "")
    version = re.search(r"vae_lightning ([\w.+-]+)", str(versions))
    try:
        cfg = read_config((run / CONFIG).read_text(encoding="utf-8"))
        overrides = read_overrides((run / OVERRIDES).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        raise ConfigError(
            f"{key}={run}: .hydra is damaged ({one_line(error)});"
            " the weights in checkpoints/ may be intact"
        ) from error
    if Path(str(cfg.data.get("root"))).name == IMAGES.name and (run / IMAGES).is_file():
        cfg.data.root = str((run / IMAGES).resolve())  # also after the folder has moved
    rows = read_csv(run / "metrics.csv")
    epochs, steps = (int(float(rows[-1][name])) if rows else 0 for name in ("epoch", "step"))
    return StoredRun(
        cfg,
        overrides,
        state if isinstance(state, str) and state in STATES else "state unknown",
        version.group(1) if version else "unknown",
        epochs,
        steps,
    )


def read_optional_json(path: Path, key: str) -> dict[str, object]:
    """Returns the content of a JSON file of a run, empty if it is missing.

    Raises ConfigError if the file is damaged.
    """
    try:
        return read_json(path)
    except ConfigError as error:
        raise ConfigError(
            f"{key}={path.parent}: {path.name} is damaged; remove it, loading does not need it"
        ) from error
