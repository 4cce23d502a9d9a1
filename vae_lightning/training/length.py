"""Checks that limits, annealing and warm-up fit the length of a training."""

from omegaconf import DictConfig

from vae_lightning.checks.errors import ConfigError, counted
from vae_lightning.data.images import ImageData
from vae_lightning.training.assembly import epochs
from vae_lightning.training.module import VAE


def check_limits(cfg: DictConfig, data: ImageData) -> None:
    """Raises ConfigError for a limit that the run does not reach, or does not come to."""
    steps, most = data.limits.max_steps, epochs(cfg) * data.steps
    if steps is not None and steps > most:
        raise ConfigError(
            f"trainer.max_steps={steps}: must be at most {most}, the steps of"
            f" {counted(epochs(cfg), 'epoch')}; set trainer.max_epochs"
        )
    least = max((cfg.trainer.min_epochs or 0) * data.steps, cfg.trainer.min_steps or 0)
    most = data.total_steps(epochs(cfg))
    if least > most:
        raise ConfigError(
            f"trainer.min_epochs, trainer.min_steps: must be at most the {most} steps of the run"
        )


def check_schedules(module: VAE, data: ImageData, epochs: int) -> None:
    """Raises ConfigError if annealing or warm-up would still go on at the end of the training."""
    steps = data.total_steps(epochs)
    if module.make_scheduler is not None:
        optimizer = module.make_optimizer(module.parameters())
        module.make_scheduler(optimizer, total_steps=steps, epochs=data.total_epochs(epochs))
    annealing = getattr(module.objective, "annealing", None)
    if annealing is not None and annealing.duration > steps:
        name = type(annealing).__name__.lower()
        raise ConfigError(
            f"annealing={name}: must end within the {steps} steps of the training, but takes"
            f" {annealing.duration} steps; set annealing.steps or trainer.max_epochs"
        )
