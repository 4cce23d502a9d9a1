"""Lightning's Trainer for a configuration."""

import inspect
import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.fabric.plugins import CheckpointIO, ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from vae_lightning.checks.errors import ConfigError
from vae_lightning.config.instantiate import built, resolve
from vae_lightning.config.options import check_together
from vae_lightning.storage.run_folder import LAST
from vae_lightning.training.assembly import plain
from vae_lightning.training.checkpoint import DirectCheckpoints
from vae_lightning.training.processes import LocalDDP
from vae_lightning.training.threads import most_threads

# of cfg.trainer, not Lightning's
OWN_TRAINER_KEYS = ("steps_per_execution", "compile", "threads", "skip_gradient_above")


def silence_notices() -> None:
    """Silences messages of Lightning and PyTorch that do not apply, and undoes a slow setting."""
    # Lightning sets it on import. Each step of Adam on a CPU then opens NVIDIA's library, which
    # takes a tenth of the step.
    os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # where CUDA's tools are installed but no GPU, PyTorch says so before it compiles for the CPU
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    # the module sums over ranks itself before it logs
    warnings.filterwarnings("ignore", message="It is recommended to use `self.log.*sync_dist=True")
    # a resumed epoch has the same order of batches and skips those that are done
    warnings.filterwarnings(
        "ignore", message="You're resuming from a checkpoint that ended before the epoch ended"
    )
    warnings.filterwarnings(
        "ignore", message=".*`isinstance\\(treespec, LeafSpec\\)` is deprecated"
    )


def build_trainer(
    cfg: DictConfig, callbacks: Sequence[Callback], loggers: list[Logger], run: Path, done: int = 0
) -> Trainer:
    """The Trainer of a run, with the configuration's callbacks before the given ones.

    ``done`` epochs are finished already; more than ``trainer.max_epochs`` means no further one.

    Raises ConfigError for an argument that the Trainer does not support and for a device that the
    machine does not have.
    """
    own: dict[str, object] = {"logger": loggers or False, "default_root_dir": run}
    own["max_epochs"] = max(cfg.trainer.max_epochs, done)
    if cfg.accelerator.strategy == "ddp" and cfg.accelerator.num_nodes == 1:
        own["strategy"] = LocalDDP(run)
    return make_trainer(cfg, trainer_arguments(cfg, callbacks, run) | own)


def build_tester(cfg: DictConfig) -> Trainer:
    """A Trainer that tests on one device and writes nothing; raises what build_trainer raises."""
    one_device = {"devices": 1, "num_nodes": 1, "strategy": "auto"}
    return make_trainer(
        cfg, trainer_arguments(cfg) | one_device | {"logger": False, "enable_checkpointing": False}
    )


def chosen_callbacks(cfg: DictConfig, run: Path | None) -> list[Callback]:
    """The callbacks of the configuration; ModelCheckpoint writes into checkpoints/ of the run."""
    found = resolve(plain(cfg.callbacks), "callbacks", cfg.trust)
    for recipe in found.values():
        if run is not None and issubclass(recipe.cls, ModelCheckpoint):
            recipe.arguments.setdefault("dirpath", str((run / LAST).parent))
    return [built(recipe) for recipe in found.values()]


def trainer_arguments(
    cfg: DictConfig, callbacks: Sequence[Callback] = (), run: Path | None = None
) -> dict[str, object]:
    """What the configuration says, and what this package decides."""
    given = {key: value for key, value in plain(cfg.trainer).items() if key not in OWN_TRAINER_KEYS}
    arguments = given | plain(cfg.accelerator)
    given_callbacks = chosen_callbacks(cfg, run)
    if cfg.data.val_size == 0:
        arguments["limit_val_batches"] = 0
    return arguments | {
        "num_sanity_val_steps": 0,
        "enable_progress_bar": any(isinstance(each, ProgressBar) for each in given_callbacks),
        "enable_model_summary": False,
        "use_distributed_sampler": False,  # the data module shards, without repeating images
        "log_every_n_steps": 1,  # everything is logged at the end of an epoch, however short it is
        "callbacks": [*given_callbacks, *callbacks],
    }


def plugins(cfg: DictConfig) -> list[CheckpointIO | ClusterEnvironment]:
    """Lightning's plugins: how checkpoints are written, and what the cluster is.

    One machine is not taken for a part of a SLURM job. Lightning's handler that requeues a SLURM
    job is off; the package handles the signals.
    """
    if cfg.accelerator.num_nodes == 1:
        return [DirectCheckpoints(), LightningEnvironment()]
    if SLURMEnvironment.detect():
        return [DirectCheckpoints(), SLURMEnvironment(auto_requeue=False)]
    return [DirectCheckpoints()]


def make_trainer(cfg: DictConfig, arguments: dict[str, object]) -> Trainer:
    """The Trainer; what it or the machine refuses becomes ConfigError."""
    arguments = {"plugins": plugins(cfg)} | arguments
    try:
        inspect.signature(Trainer).bind(**arguments)
        check_device(cfg)
        return Trainer(**arguments)  # pyright: ignore[reportArgumentType] - the configuration gives the values
    except (TypeError, MisconfigurationException) as error:
        raise ConfigError(f"trainer: {error}") from error


def count_devices(cfg: DictConfig) -> None:
    """Replaces trainer.devices=auto by the number of devices: all GPUs, or all cores for ddp_cpu.

    Raises ConfigError if the batch cannot be divided among them.
    """
    if cfg.trainer.devices != "auto":
        return
    gpus = torch.cuda.device_count() if cfg.accelerator.accelerator != "cpu" else 0
    is_single = cfg.accelerator.strategy == "auto"
    cfg.trainer.devices = 1 if is_single else gpus or most_threads()
    check_together(cfg)


def check_device(cfg: DictConfig) -> None:
    """Raises ConfigError if this machine does not have the accelerator."""
    kind, devices = cfg.accelerator.accelerator, cfg.trainer.devices
    highest = devices if isinstance(devices, int) else max(devices) + 1
    have = {"gpu": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if have.get(kind) == 0:
        raise ConfigError(
            f"accelerator.accelerator={kind}: must be auto, cpu or ddp_cpu, as this machine has no"
            f" {kind}"
        )
    if kind in have and have[kind] < highest:
        allowed = (
            f"at most {have[kind]}" if isinstance(devices, int) else f"below {have[kind]} each"
        )
        raise ConfigError(
            f"trainer.devices={devices}: must be {allowed}, the number of {kind} devices of this"
            " machine"
        )
    if cfg.trainer.precision == "16-mixed" and (kind == "cpu" or not (have["gpu"] or have["mps"])):
        raise ConfigError("trainer.precision=16-mixed: must be 32 or bf16-mixed on a CPU")
