"""Starts a run, continues one, or joins one as a worker process of DDP.

Imports PyTorch only when a run begins, so that a refused configuration is answered at once.
"""

import os
import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from vae_lightning.checks.errors import ConfigError, Interrupted, counted
from vae_lightning.config import interpolations, options
from vae_lightning.config.dotted import is_part
from vae_lightning.config.environment import (
    RESUMES_VARIABLE,
    RUN_VARIABLE,
    forget_ranks,
    is_requeued,
    rank,
)
from vae_lightning.config.hydra_table import key_of
from vae_lightning.runs.stored import CONFIG, read_stored, require_run
from vae_lightning.runs.untrusted import check_links
from vae_lightning.storage import run_folder
from vae_lightning.training.signals import IgnoredSignals, StopSignals

if TYPE_CHECKING:
    from vae_lightning.data.sources.arrays import Arrays
    from vae_lightning.training.experiment import Result

SWEEP = "hydra.sweep"  # the keys of Hydra that are read in a sweep only
LIMITS = ("trainer.max_epochs", "trainer.max_steps", "trainer.max_time")  # may change on resume


def resumed_run(override: str) -> str | None:
    """Returns the run that an override continues, if it does: resume=RUN, also with + or ++."""
    key, _, value = override.partition("=")
    return value if key.lstrip("+") == "resume" and value not in ("", "null") else None


def check_resumes_alone(words: Sequence[str]) -> None:
    """Raises ConfigError if a run that continues is also told how to start."""
    if any(resumed_run(word) for word in words):
        for word in words:
            if key_of(word) in ("init_from", "from_config"):
                raise ConfigError(f"{word}: must not be given with resume; only a new run takes it")


def check_no_sweep(words: Sequence[str]) -> None:
    """Raises ConfigError for an option that only a sweep has."""
    for word in words:
        if any(is_part(key_of(word), section) for section in (*options.SWEEP_SECTIONS, SWEEP)):
            raise ConfigError(f"{word}: must only be given for a sweep; -m starts one")


def start(
    cfg: DictConfig, overrides: Sequence[str], stop: StopSignals, arrays: "Arrays | None" = None
) -> "Result | None":
    """Starts a new run of a composed configuration; checks it before it creates the run folder.

    ``overrides`` is what was typed, ``arrays`` the images of data=arrays if they are in no file.
    """
    is_folder_given = any(key_of(word) == "hydra.run.dir" for word in overrides)
    options.check(cfg)
    if cfg.accelerator.num_nodes > 1:
        check_nodes(cfg, is_folder_given)
    path = interpolations.folder(cfg, "run")
    if is_folder_given and is_requeued() and (path / CONFIG).is_file():
        return resume(path, overrides, stop)
    check_initial(cfg)
    options.settle(cfg)
    cfg.trust = options.may_name_any_class(cfg)
    # only rank 0 creates the folder
    folder = (
        nullcontext(path.resolve())
        if cfg.accelerator.num_nodes > 1 and rank()
        else run_folder.new_folder(path, exclusive=not is_folder_given)
    )
    return run(cfg, folder, stop, overrides, arrays)


def check_initial(cfg: DictConfig) -> None:
    """Raises ConfigError if init_from names no weights."""
    if cfg.init_from is None:
        return
    path, key = Path(cfg.init_from).expanduser(), "init_from"
    if path.suffix == ".safetensors":
        if not path.is_file():
            raise ConfigError(f"{key}={path}: must be a run folder or a .safetensors file")
        return
    require_run(path, key)
    check_links(path, key)
    if not (path / run_folder.BEST).is_file():
        raise ConfigError(
            f"{key}={path}: must have {run_folder.BEST}, which its first epoch writes"
        )


def check_nodes(cfg: DictConfig, is_folder_given: bool) -> None:
    """Raises ConfigError unless the processes were started that a run of several machines needs.

    All of them must use the same folder and seed.
    """
    if "RANK" not in os.environ and "SLURM_PROCID" not in os.environ:
        nodes = cfg.accelerator.num_nodes
        raise ConfigError(f"accelerator.num_nodes={nodes}: requires a start by torchrun or srun")
    tasks = os.environ.get("SLURM_NTASKS", "") if "RANK" not in os.environ else ""
    if tasks.isdigit() and cfg.trainer.devices != "auto":
        nodes, processes = cfg.accelerator.num_nodes, options.process_count(cfg)
        if int(tasks) != nodes * processes:
            raise ConfigError(
                f"accelerator.num_nodes={nodes} trainer.devices={processes}: requires"
                f" --ntasks={nodes * processes}, but SLURM has started {tasks}"
            )
    if not is_folder_given or cfg.seed is None:
        raise ConfigError(
            "accelerator=multi_node: requires hydra.run.dir and seed, "
            "so that all nodes use the same folder and seed"
        )


def resume(folder: Path, overrides: Sequence[str], stop: StopSignals) -> "Result | None":
    """Continues a run from last.ckpt in its folder.

    Of its options, only data.root and the limits of the training may change, see ``LIMITS``. At or
    below the number of finished epochs, trainer.max_epochs ends the run with its test. ``trust`` is
    false unless the overrides set it.
    """
    stored = read_stored(folder, "resume")
    cfg = stored.cfg
    folder = folder.resolve()
    before, advice = dict(cfg.trainer), longer(cfg, stored.steps)
    for override in overrides:
        key, _, value = override.partition("=")
        if key == "trust":
            cfg.trust = {"true": True, "false": False}.get(value, value)
        elif key in LIMITS:
            set_limit(cfg, key, value)
        elif key == "data.root" and value:
            cfg.data.root = value
        elif override not in stored.overrides:
            raise ConfigError(
                f"{override}: must not change on resume; only data.root and {', '.join(LIMITS)} may"
            )
    options.check_complete(cfg)
    options.check_values(cfg)
    is_same = before == dict(cfg.trainer)
    if not is_same and 0 < cfg.trainer.max_steps <= stored.steps:
        raise ConfigError(
            f"trainer.max_steps={cfg.trainer.max_steps}: must be more than the {stored.steps} steps"
            " that are done; -1 is no limit"
        )
    is_done = is_same or cfg.trainer.max_epochs <= stored.epochs
    if stored.state == "finished" and is_done:
        done = counted(stored.epochs, "epoch")
        print(f"{folder} is finished: {done}. To train longer: resume={folder} {advice}")
        return None
    return run(cfg, nullcontext(folder), stop, None)


def set_limit(cfg: DictConfig, key: str, value: str) -> None:
    """Sets a limit of the training to a value as typed; a wrong one is left to ``check_values``."""
    is_integer = re.fullmatch(r"-?\d+", value) is not None
    OmegaConf.update(cfg, key, None if value == "null" else int(value) if is_integer else value)


def longer(cfg: DictConfig, steps: int) -> str:
    """The override with which a finished run trains longer, after so many steps."""
    if 0 < cfg.trainer.max_steps <= steps:
        return "trainer.max_steps=-1"
    if cfg.trainer.max_time is not None:
        return "trainer.max_time=null"
    return f"trainer.max_epochs={2 * cfg.trainer.max_epochs}"


def run(
    cfg: DictConfig,
    folder: AbstractContextManager[Path],
    stop: StopSignals,
    overrides: Sequence[str] | None,
    arrays: "Arrays | None" = None,
) -> "Result | None":
    """Runs the experiment; prints, if it is interrupted, the command that resumes it.

    ``overrides`` is None on resume. Returns None in all processes but the first.
    """
    if cfg.accelerator.num_nodes == 1:
        forget_ranks()
    try:
        from vae_lightning.compile import accelerate
        from vae_lightning.training.experiment import run_experiment

        return run_experiment(cfg, folder, accelerate, stop, overrides, overrides is None, arrays)
    except Interrupted as interruption:
        if interruption.run is None:
            message = "interrupted before the training began; there is nothing to continue"
        else:
            command = f"python -m vae_lightning.train resume={shlex.quote(str(interruption.run))}"
            message = f"{interruption.state}. To continue: {command}"
        print(message, file=sys.stderr)
        raise


def join() -> None:
    """Trains as rank 1 or above of a run that rank 0 started; only rank 0 prints results."""
    folder = Path(os.environ[RUN_VARIABLE])
    from vae_lightning.compile import accelerate
    from vae_lightning.training.experiment import run_experiment

    cfg = read_stored(folder, RUN_VARIABLE).cfg
    cfg.trust = True  # rank 0 has checked the same configuration
    signals = IgnoredSignals()
    signals.install()
    resumes = bool(os.environ.get(RESUMES_VARIABLE))
    try:
        run_experiment(cfg, nullcontext(folder), accelerate, signals, resumes=resumes)
    except Interrupted:
        # rank 0 reports the interruption; another code makes Lightning kill rank 0 before that
        sys.exit(0)
