"""Decides which fast path a run takes, and puts it in place."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch import Trainer
from omegaconf import DictConfig

from vae_lightning.compile.direct import DirectStep
from vae_lightning.compile.onednn import products
from vae_lightning.data.images import ImageData
from vae_lightning.training.assembly import epochs
from vae_lightning.training.module import VAE
from vae_lightning.training.steps import StepFunction

log = logging.getLogger(__name__)

# Optimizer steps that earn back the time of compiling a graph: see benchmarks/README.md.
COMPILED_FROM_STEPS = 6_000


@contextmanager
def accelerate(cfg: DictConfig, trainer: Trainer, module: VAE, data: ImageData) -> Iterator[None]:
    """Makes training faster within the context; results differ only by the rounding of float32.

    Lightning calls the module once for several optimizer steps. oneDNN multiplies float32 matrices.
    Runs that are long enough use a compiled step.
    """
    compiled = compiles(cfg, trainer, data)
    if data.group_size > 1:
        module.use_fast_path(compiled_step(module, data) if compiled else DirectStep(module))
    with products():
        yield


def compiled_step(module: VAE, data: ImageData) -> StepFunction:
    """The step as a graph; the plain step, with a line in the log, if PyTorch cannot compile."""
    try:
        from vae_lightning.compile.step import CompiledStep  # imports TorchInductor
    except ImportError as error:
        log.warning("trainer.compile: the optimizer step is not compiled: %s", error)
        return module.take_step
    return CompiledStep(module, data.batch_size)


def compiles(cfg: DictConfig, trainer: Trainer, data: ImageData) -> bool:
    """Whether the optimizer step is compiled.

    ``trainer.compile=auto`` compiles on a CPU if the run is long enough. Steps that Lightning takes
    one by one are not compiled, and neither are those in which anomalies are looked for.
    """
    choice = cfg.trainer.compile
    is_possible = data.group_size > 1 and not cfg.trainer.detect_anomaly
    if choice == "auto":
        on_cpu = trainer.strategy.root_device.type == "cpu"
        is_long = data.total_steps(epochs(cfg)) >= COMPILED_FROM_STEPS
        return is_possible and on_cpu and is_long
    if choice and not is_possible:
        log.warning(
            "trainer.compile=true: not compiled, as a callback or a trainer option needs every step"
        )
    return choice and is_possible
