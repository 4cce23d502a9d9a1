"""Stops a training that no longer improves."""

import logging
from typing import Annotated

from lightning.pytorch import LightningModule, Trainer, callbacks

from vae_lightning.checks.ranges import Integer, Number, Option
from vae_lightning.training.module import VAE

log = logging.getLogger(__name__)


class EarlyStopping(callbacks.EarlyStopping):
    """Stops when the validation value that selects best.ckpt has not improved for some time.

    That value has beta = 1. Validations before the annealing has reached its end do not count.

    Args:
        patience: validations without improvement after which the training stops.
        min_delta: nats per image by which a value must be lower to count as an improvement.
    """

    def __init__(
        self,
        patience: Annotated[
            int, Option("validations without improvement until it stops", Integer(1))
        ],
        min_delta: Annotated[
            float, Option("smallest improvement that counts, nats per image", Number(least=0))
        ],
    ) -> None:
        super().__init__("val/neg_elbo", min_delta, patience, check_on_train_epoch_end=False)
        self.first_step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Takes the value and the end of the annealing from the objective."""
        super().setup(trainer, pl_module, stage)
        assert isinstance(pl_module, VAE)
        self.monitor = f"val/{pl_module.selected_by}"
        annealing = getattr(pl_module.objective, "annealing", None)
        self.first_step = getattr(annealing, "duration", 0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Does not continue a training that was stopped before."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops if there was no improvement; says so."""
        if trainer.global_step < self.first_step:
            return
        super().on_validation_end(trainer, pl_module)
        if self.wait_count >= self.patience:
            self.stopping_reason_message = (
                f"{self.monitor} has not improved on {self.best_score:.3f} for"
                f" {self.wait_count} validations"
            )
