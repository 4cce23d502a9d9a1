"""Loads a run from its folder or from a .safetensors file.

Loading needs no data and executes no stored code.
"""

import logging
from pathlib import Path

from vae_lightning.checks.errors import ConfigError
from vae_lightning.checks.ranges import check_value
from vae_lightning.config.general_options import GENERAL_OPTIONS
from vae_lightning.runs.build import build
from vae_lightning.runs.run import Run
from vae_lightning.runs.safetensors import read_safetensors
from vae_lightning.runs.stored import read_stored
from vae_lightning.storage import run_folder
from vae_lightning.training.checkpoint import read_checkpoint

log = logging.getLogger(__name__)

CHECKPOINTS = {"best": run_folder.BEST, "last": run_folder.LAST}


def load_run(
    run: str | Path,
    checkpoint: str = "best",
    trust: bool = False,
    data_root: str | Path | None = None,
) -> Run:
    """Loads a run from its folder or from a .safetensors file that export wrote; needs no data.

    Args:
        run: the folder or the file.
        checkpoint: ``best`` or ``last``; ignored for a file, which contains one checkpoint.
        trust: let the stored configuration name classes of other packages.
        data_root: folder of the image files, which ``Run.data`` reads; None: that of the run or, if
            the files are not there, VAE_LIGHTNING_DATA.

    Raises ConfigError, with a one-line message, if the run is missing, damaged or was written by
    an incompatible version.

    >>> from vae_lightning import load_run
    >>> run = load_run("outputs/2026-01-31/12-00-00")
    >>> run.description
    'mnist, mlp with 3 latents, squared error'
    """
    check_value("trust", trust, GENERAL_OPTIONS["trust"])
    for name, value in (("run", run), ("data_root", data_root)):
        if not isinstance(value, str | Path) and (name == "run" or value is not None):
            raise ConfigError(f"{name}={value}: must be a path")
    source = Path(run).expanduser()
    is_file = source.suffix == ".safetensors"
    loaded = read_safetensors(source, trust) if is_file else read_run(source, checkpoint, trust)
    if data_root is not None:
        loaded.cfg.data.root = str(Path(data_root).expanduser())
    return loaded


def read_run(run: Path, checkpoint: str, trust: bool) -> Run:
    """Loads a run from its folder; logs a warning if the run is not finished.

    Raises ConfigError, with a one-line message, if the run or the checkpoint is missing, damaged or
    was written by an incompatible version.
    """
    if checkpoint not in CHECKPOINTS:
        raise ConfigError(f"checkpoint={checkpoint}: must be best or last")
    stored = read_stored(run, "run")
    if not any((run / path).is_file() for path in CHECKPOINTS.values()):
        raise ConfigError(
            f"run={run}: has no checkpoint yet ({stored.state});"
            f" resume={run} continues its training"
        )
    weights = read_checkpoint(run / CHECKPOINTS[checkpoint], f"run={run}")
    step = weights["global_step"]
    if stored.state != "finished":
        state = stored.state
        log.warning(
            "run=%s: is not finished (%s); the weights are those of step %d", run, state, step
        )
    module = build(stored.cfg, weights["state_dict"], f"run={run}", stored.version, trust)
    return Run(run, stored.cfg, module, checkpoint, step)
