"""Lightning's Trainer for a configuration."""

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
from lightning.pytorch.callbacks import (
    GradientAccumulationScheduler,
    ModelCheckpoint,
    ProgressBar,
    StochasticWeightAveraging,
)
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import AdvancedProfiler, PyTorchProfiler, SimpleProfiler
from omegaconf import DictConfig, OmegaConf

from vae_lightning.checks.errors import ConfigError
from vae_lightning.config.instantiate import built, is_within, resolve
from vae_lightning.config.options import check_together
from vae_lightning.data.images import ImageData
from vae_lightning.storage.run_folder import LAST
from vae_lightning.training.assembly import epochs, plain
from vae_lightning.training.checkpoint import DirectCheckpoints
from vae_lightning.training.processes import LocalDDP
from vae_lightning.training.threads import most_threads

# options that Lightning's Trainer takes as they are; the package acts on the others itself
LIGHTNING_KEYS = (
    "devices",
    "precision",
    "min_epochs",
    "min_steps",
    "check_val_every_n_epoch",
    "num_sanity_val_steps",
    "deterministic",
    "detect_anomaly",
)
PROFILERS = {
    "simple": SimpleProfiler,
    "advanced": AdvancedProfiler,
    "pytorch": PyTorchProfiler,
}
# hooks of a callback that Lightning calls at every step
STEP_HOOKS = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)
# callbacks that change how Lightning takes the steps
CHANGES_OPTIMIZATION = (GradientAccumulationScheduler, StochasticWeightAveraging)


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
    cfg: DictConfig,
    data: ImageData,
    callbacks: Sequence[Callback],
    loggers: list[Logger],
    run: Path,
    done: int = 0,
) -> Trainer:
    """The Trainer of a run, with the configuration's callbacks before the given ones.

    ``done`` epochs are finished already; more than ``trainer.max_epochs`` means no further one.
    Groups the batches of the data if Lightning need not see each of them.

    Raises ConfigError for an argument that the Trainer does not support and for a device that the
    machine does not have.
    """
    all_callbacks = [*chosen_callbacks(cfg, run), *callbacks]
    data.group_batches(steps_per_execution(cfg, all_callbacks))
    arguments = trainer_arguments(cfg) | {
        "logger": loggers or False,
        "default_root_dir": run,
        "max_epochs": max(epochs(cfg), done),
        "val_check_interval": data.calls_between_validations,
        "limit_val_batches": None if data.batches_in("val") else 0,
        "accumulate_grad_batches": cfg.trainer.accumulate_grad_batches,
        "callbacks": all_callbacks,
        "enable_progress_bar": any(isinstance(each, ProgressBar) for each in all_callbacks),
    }
    if cfg.trainer.fast_dev_run:
        arguments |= {"check_val_every_n_epoch": 1, "num_sanity_val_steps": 0}
    if cfg.trainer.profiler is not None:
        profiler = PROFILERS[cfg.trainer.profiler]
        arguments["profiler"] = profiler(dirpath=run / "profile", filename=cfg.trainer.profiler)
    if cfg.accelerator.strategy == "ddp" and cfg.accelerator.num_nodes == 1:
        arguments["strategy"] = LocalDDP(run)
    return make_trainer(cfg, arguments)


def build_tester(cfg: DictConfig) -> Trainer:
    """A Trainer that tests on one device and writes nothing; raises what build_trainer raises."""
    one_device = {"devices": 1, "num_nodes": 1, "strategy": "auto"}
    return make_trainer(
        cfg, trainer_arguments(cfg) | one_device | {"logger": False, "enable_checkpointing": False}
    )


def chosen_callbacks(cfg: DictConfig, run: Path) -> list[Callback]:
    """The callbacks of the configuration; ModelCheckpoint writes into checkpoints/ of the run."""
    found = resolve(plain(cfg.callbacks), "callbacks", cfg.trust)
    for recipe in found.values():
        if issubclass(recipe.cls, ModelCheckpoint):
            recipe.arguments.setdefault("dirpath", str((run / LAST).parent))
    return [built(recipe) for recipe in found.values()]


def trainer_arguments(cfg: DictConfig) -> dict[str, object]:
    """What the configuration says, and what this package decides."""
    given = {key: value for key, value in plain(cfg.trainer).items() if key in LIGHTNING_KEYS}
    fixed = {
        "enable_progress_bar": False,  # the package has its own
        "enable_model_summary": False,
        "use_distributed_sampler": False,  # the data module shards, without repeating images
        "log_every_n_steps": 1,  # all is logged at the end of an epoch, however short it is
    }
    return given | plain(cfg.accelerator) | fixed


def steps_per_execution(cfg: DictConfig, callbacks: Sequence[Callback]) -> int:
    """Optimizer steps in one call by Lightning; 1 if something needs every step."""
    if cfg.accelerator.strategy != "auto" or cfg.trainer.accumulate_grad_batches > 1:
        return 1
    return 1 if any(map(needs_every_step, callbacks)) else cfg.trainer.steps_per_execution


def needs_every_step(callback: Callback) -> bool:
    """Whether Lightning must call this callback of another package after every step."""
    if is_within(type(callback).__module__, ("vae_lightning",)):
        return False
    hooked = any(
        getattr(type(callback), hook) is not getattr(Callback, hook) for hook in STEP_HOOKS
    )
    return hooked or isinstance(callback, CHANGES_OPTIMIZATION)


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
    check_device(cfg, arguments["devices"])
    try:
        return Trainer(**arguments)  # pyright: ignore[reportArgumentType] - the configuration gives the values
    except MisconfigurationException as error:
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


def check_device(cfg: DictConfig, devices: object) -> None:
    """Raises ConfigError if this machine does not have the accelerator or one of the devices."""
    assert isinstance(devices, int | list)
    kind = cfg.accelerator.accelerator
    highest = devices if isinstance(devices, int) else max(devices) + 1
    gpus = torch.cuda.device_count()
    have = {"gpu": gpus, "cuda": gpus, "mps": int(torch.backends.mps.is_available())}
    is_cpu = kind == "cpu" or not any(have.values())
    if have.get(kind) == 0:
        raise ConfigError(
            f"{typed_accelerator(cfg)}: must be auto, cpu or ddp_cpu, as this machine has no {kind}"
        )
    if is_cpu and isinstance(devices, list):
        raise ConfigError(
            f"trainer.devices={devices}: must be a single number, as this machine has no GPU"
        )
    if kind in have and have[kind] < highest:
        allowed = (
            f"at most {have[kind]}" if isinstance(devices, int) else f"below {have[kind]} each"
        )
        raise ConfigError(
            f"trainer.devices={devices}: must be {allowed}, the number of {kind} devices of this"
            " machine"
        )
    if cfg.trainer.precision == "16-mixed" and is_cpu:
        raise ConfigError("trainer.precision=16-mixed: must be 32 or bf16-mixed on a CPU")


def typed_accelerator(cfg: DictConfig) -> str:
    """The words that ask for a device: accelerator=NAME if one of its files does, else the key."""
    chosen = OmegaConf.select(cfg, "hydra.runtime.choices.accelerator")  # a stored run has none
    if chosen in ("gpu", "mps", "ddp"):
        return f"accelerator={chosen}"
    return f"accelerator.accelerator={cfg.accelerator.accelerator}"
