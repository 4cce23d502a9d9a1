"""What a configuration stands for: the data, the LightningModule, the Trainer."""

import inspect
import logging
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig, OmegaConf, open_dict

from vae_lightning import datasets, rng
from vae_lightning.build import find_class, instantiate, within
from vae_lightning.callbacks import Interrupt, Progress, Recorder
from vae_lightning.cli import CONF
from vae_lightning.data import ImageData
from vae_lightning.module import VAE

log = logging.getLogger(__name__)

COMPILED_FROM = 6_000  # optimiser steps that earn back the time of building a graph: benchmarks/README.md
OWN = ("steps_per_execution", "compile")  # keys of the trainer that are not Lightning's
# keys that ask nothing of Lightning at a step, and the hooks of a callback that do
STEPLESS = {"max_epochs", "devices", "precision", *OWN}
STEP_HOOKS = (
    *("on_train_batch_start", "on_train_batch_end", "on_before_zero_grad", "on_before_backward", "on_after_backward"),
    "on_before_optimizer_step",
)


def quiet() -> None:
    """Leaves out what Lightning and PyTorch do unasked: notices about what this package decides, a search for GPUs."""
    # Lightning's import sets it, and then each step of Adam on a CPU opens NVIDIA's library anew: a tenth of the step
    os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # where CUDA's tools are and no GPU, PyTorch says so before it compiles for the CPU
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    # the module sums over ranks itself before it logs
    warnings.filterwarnings("ignore", message="It is recommended to use `self.log.*sync_dist=True")
    # the batches are: their order is a function of the epoch, and they skip what was done
    warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch ended")
    warnings.filterwarnings("ignore", message=".*`isinstance\\(treespec, LeafSpec\\)` is deprecated")


def plain(node: DictConfig) -> dict[str, Any]:
    """A part of the configuration as plain Python, which nothing can write back through."""
    return OmegaConf.to_container(node, resolve=True)


def build_data(cfg: DictConfig) -> ImageData:
    """The image set, or the fallback where its files can neither be found nor downloaded: cfg.data then says so.

    Raises ValueError where there is no fallback either.
    """
    dataset = find_class(cfg.data.dataset["_target_"], torch.utils.data.Dataset, cfg.trust)
    if hasattr(dataset, "resources"):
        try:
            datasets.ensure_files(dataset, Path(cfg.data.root), list(cfg.data.mirrors))
        except OSError as error:
            fall_back(cfg, error)
    arguments = plain(cfg.data) | {"_target_": "vae_lightning.data.ImageData", "seed": cfg.seed}
    arguments["conditional"] = conditional(cfg)
    for key in ("fallback", "instead_of", "mirrors", "classes"):
        arguments.pop(key, None)
    return instantiate(arguments, "data", cfg.trust)


def fall_back(cfg: DictConfig, error: OSError) -> None:
    """Turns cfg.data into scikit-learn's digits, with a warning; ValueError where data.fallback=null."""
    missing = f"{cfg.data.root} has no {cfg.data.name} files and no mirror gave them"
    if cfg.data.fallback is None:
        raise ValueError(
            f"data.root={cfg.data.root}: must hold {cfg.data.name}'s files, as no mirror gave them and"
            f" data.fallback=null; put the IDX files into {cfg.data.root}/{cfg.data.dataset['_target_'].split('.')[-1]}"
            f"/raw, set VAE_LIGHTNING_DATA, or allow data.fallback=digits ({error})"
        )
    log.warning("%s: training on scikit-learn's digits instead (data.fallback=digits). %s", missing, error)
    other = OmegaConf.load(CONF / "data" / f"{cfg.data.fallback}.yaml")
    del other["defaults"]  # the same as those of every data set
    other.update(instead_of=cfg.data.name, mirrors=[], val_size=min(cfg.data.val_size, other.val_size))
    with open_dict(cfg):
        cfg.data.merge_with(other)


def conditional(cfg: DictConfig) -> bool:
    """Whether the networks are told the label."""
    return bool(cfg.model.get("conditional", False))


def with_label(cfg: DictConfig, name: str, kind: str, **size: object) -> dict[str, Any]:
    """A posterior or likelihood, its network wrapped in one that takes the label too if the model is conditional."""
    node = plain(cfg[name])
    if conditional(cfg):
        target = f"vae_lightning.networks.Conditional{kind}"
        node["network"] = {"_target_": target, "_partial_": True, "network": node["network"], **size}
        node["network"]["classes"] = cfg.data.classes
    return node


def build_module(cfg: DictConfig) -> VAE:
    """The model with its initial weights, which depend on the seed alone; ValueError for what cannot be built."""
    torch.manual_seed(rng.stream_seed(cfg.seed, "weights"))
    parts = {name: instantiate(plain(cfg[name]), name, cfg.trust) for name in ("prior", "objective", "optimizer")}
    encoder = instantiate(
        with_label(cfg, "posterior", "Encoder", image_shape=list(cfg.data.image_shape)), "posterior", cfg.trust
    )
    decoder = instantiate(
        with_label(cfg, "likelihood", "Decoder", latent_dim=cfg.model.latent_dim), "likelihood", cfg.trust
    )
    scheduler = instantiate(plain(cfg.scheduler), "scheduler", cfg.trust) if cfg.scheduler else None
    classes = cfg.data.classes if conditional(cfg) else 0
    module = VAE(encoder, decoder, **parts, scheduler=scheduler, seed=cfg.seed, classes=classes)
    try:  # once now, so that what they refuse is found before the run has a folder
        optimizer = module.make_optimizer(module.parameters())
        if scheduler:
            scheduler(optimizer, total_steps=1)
    except (TypeError, ValueError) as error:
        raise ValueError(f"optimizer, scheduler: {error}") from error
    return module


def build_trainer(cfg: DictConfig, run: Path | None = None, checkpoint: Path | None = None) -> Trainer:
    """Lightning's Trainer for a run; without a run, one that checks and tests on one device and leaves no trace.

    Raises ValueError for what the Trainer does not take and for a device that the machine does not have.
    """
    given = {key: value for key, value in plain(cfg.trainer).items() if key not in OWN}
    arguments = given | plain(cfg.accelerator)
    if cfg.data.val_size == 0:
        arguments["limit_val_batches"] = 0
    arguments |= {
        "num_sanity_val_steps": 0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,  # the data module shards, without repeating images
        "log_every_n_steps": 1,  # everything is logged at the end of an epoch, however short it is
        "callbacks": list(instantiate(plain(cfg.callbacks), "callbacks", cfg.trust).values()),
    }
    if run is None:
        arguments |= {"devices": 1, "num_nodes": 1, "strategy": "auto", "logger": False, "enable_checkpointing": False}
    else:
        recorder = Recorder(run)
        arguments["callbacks"] += [Progress(), Interrupt(run, recorder), recorder]
        arguments |= {"logger": tensorboard(run, checkpoint), "default_root_dir": run}
    try:
        inspect.signature(Trainer).bind(**arguments)
        check_device(cfg)
        return Trainer(**arguments)
    except (TypeError, MisconfigurationException) as error:
        raise ValueError(f"trainer: {error}") from error


def steps_per_execution(cfg: DictConfig, trainer: Trainer) -> int:
    """Optimiser steps that one call by Lightning does: 1 where it has something to do at each of them."""
    watched = any(
        getattr(type(callback), hook) is not getattr(Callback, hook)
        for callback in trainer.callbacks
        for hook in STEP_HOOKS
        if not within(type(callback).__module__, ("vae_lightning",))
    )
    if watched or cfg.accelerator.strategy != "auto" or not STEPLESS.issuperset(cfg.trainer):
        return 1
    return cfg.trainer.get("steps_per_execution", 1)


def compiles(cfg: DictConfig, trainer: Trainer, data: ImageData) -> bool:
    """Whether the optimiser step is to be compiled: asked for, or left to us and the run long enough on a CPU."""
    choice, at_once = cfg.trainer.get("compile", False), data.steps_per_execution > 1
    if choice == "auto":
        on_cpu = trainer.strategy.root_device.type == "cpu"
        return at_once and on_cpu and cfg.trainer.max_epochs * data.steps >= COMPILED_FROM
    if choice and not at_once:
        log.warning("trainer.compile=true: the step is not compiled where Lightning has something to do at each step")
    return choice and at_once


def check_device(cfg: DictConfig) -> None:
    """Raises ValueError where the accelerator that was asked for is not there, before Lightning would."""
    kind, devices = cfg.accelerator.accelerator, cfg.trainer.devices
    have = {"gpu": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if have.get(kind) == 0:
        raise ValueError(f"accelerator.accelerator={kind}: this machine has no {kind}; must be auto, cpu or ddp_cpu")
    if kind in have and have[kind] < devices:
        raise ValueError(f"trainer.devices={devices}: must be at most {have[kind]}, the {kind} devices of this machine")
    if cfg.trainer.precision == "16-mixed" and (kind == "cpu" or not (have["gpu"] or have["mps"])):
        raise ValueError("trainer.precision=16-mixed: must be 32 or bf16-mixed on a CPU")


class Scalars(TensorBoardLogger):
    """Lightning's logger without the scalar ``epoch`` that it adds to every step."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Writes all but the epoch."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)


def tensorboard(run: Path, checkpoint: Path | None) -> TensorBoardLogger:
    """One event file series in run/tensorboard; a resumed run hides what was written after its checkpoint."""
    purge = torch.load(checkpoint, weights_only=True, mmap=True)["global_step"] if checkpoint else None
    return Scalars(run, name="tensorboard", version="", default_hp_metric=False, purge_step=purge)
