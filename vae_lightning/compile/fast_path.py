"""Decides which fast path a run takes, and puts it in place."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging
from omegaconf import DictConfig

from vae_lightning.compile.direct import DirectStep
from vae_lightning.compile.onednn import products
from vae_lightning.config.instantiate import is_within
from vae_lightning.data.images import ImageData
from vae_lightning.training.lightning_progress import callbacks_of
from vae_lightning.training.module import VAE, StepFunction
from vae_lightning.training.trainer import OWN_TRAINER_KEYS

log = logging.getLogger(__name__)

# Optimizer steps that earn back the time of compiling a graph: see benchmarks/README.md.
COMPILED_FROM_STEPS = 6_000
# Keys of cfg.trainer that do not ask Lightning to do something at every step.
KEYS_WITHOUT_STEP_WORK = {"max_epochs", "devices", "precision", *OWN_TRAINER_KEYS}
# Hooks of a callback that Lightning calls at every step.
STEP_HOOKS = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)
# Callbacks that change how Lightning takes the steps.
CHANGES_OPTIMIZATION = (GradientAccumulationScheduler, StochasticWeightAveraging)


@contextmanager
def accelerate(cfg: DictConfig, trainer: Trainer, module: VAE, data: ImageData) -> Iterator[None]:
    """Makes training faster within the context; results differ only by the rounding of float32.

    Lightning calls the module once for several optimizer steps. oneDNN multiplies float32 matrices.
    Runs that are long enough use a compiled step.
    """
    steps = steps_per_execution(cfg, trainer)
    compiled = compiles(cfg, trainer, data, steps)
    if steps > 1:
        data.group_batches(steps)
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


def steps_per_execution(cfg: DictConfig, trainer: Trainer) -> int:
    """Optimizer steps in one call by Lightning; 1 if something needs every step."""
    if (
        any(needs_every_step(callback) for callback in callbacks_of(trainer))
        or cfg.accelerator.strategy != "auto"
    ):
        return 1
    if not KEYS_WITHOUT_STEP_WORK.issuperset(cfg.trainer):
        return 1
    return cfg.trainer.steps_per_execution


def needs_every_step(callback: Callback) -> bool:
    """Whether Lightning must call this callback of another package after every step."""
    if is_within(type(callback).__module__, ("vae_lightning",)):
        return False
    hooked = any(
        getattr(type(callback), hook) is not getattr(Callback, hook) for hook in STEP_HOOKS
    )
    return hooked or isinstance(callback, CHANGES_OPTIMIZATION)


def compiles(cfg: DictConfig, trainer: Trainer, data: ImageData, steps: int) -> bool:
    """Whether the optimizer step is compiled, given the steps in one call by Lightning.

    ``trainer.compile=auto`` compiles on a CPU if the run is long enough.
    """
    choice = cfg.trainer.compile
    if choice == "auto":
        on_cpu = trainer.strategy.root_device.type == "cpu"
        is_long = cfg.trainer.max_epochs * data.steps >= COMPILED_FROM_STEPS
        return steps > 1 and on_cpu and is_long
    if choice and steps == 1:
        log.warning(
            "trainer.compile=true: not compiled, as a callback or a trainer option needs every step"
        )
    return choice and steps > 1
