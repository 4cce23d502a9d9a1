"""Logs the learning rate of every step."""

from typing import Annotated, Any

from lightning.pytorch import LightningModule, Trainer

from vae_lightning.checks.ranges import Integer, Option
from vae_lightning.training.callbacks.step import StepCallback


class LearningRate(StepCallback):
    """Logs the learning rate of steps as ``optimizer/lr``; without it, epochs have one value.

    The value of a step is the learning rate of the next one, as at the end of an epoch.

    Args:
        every_n_steps: steps between values.
    """

    def __init__(
        self, every_n_steps: Annotated[int, Option("steps between logged values", Integer(1))]
    ) -> None:
        super().__init__()
        self.every_n_steps = every_n_steps
        self.rates: list[tuple[int, float]] = []  # of this epoch

    def after_step(self, module: LightningModule, steps: int) -> None:
        """Remembers the learning rate."""
        if steps % self.every_n_steps == 0:
            rate = float(module.trainer.optimizers[0].param_groups[0]["lr"])
            self.rates.append((steps - 1, rate))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the values of the epoch."""
        for step, rate in self.rates:
            for logger in trainer.loggers:
                logger.log_metrics({"optimizer/lr": rate}, step)
        self.rates = []

    def state_dict(self) -> dict[str, Any]:
        """The values of an epoch that is not over."""
        return super().state_dict() | {"rates": self.rates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues the epoch."""
        super().load_state_dict(state_dict)
        self.rates = state_dict["rates"]
