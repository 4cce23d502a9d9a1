"""The progress bar of a run."""

import sys
import time

from lightning.pytorch import Callback, LightningModule, Trainer
from tqdm import tqdm

from vae_lightning.checks.errors import decimals
from vae_lightning.data.images import image_data
from vae_lightning.training.module import VAE


class Progress(Callback):
    """One bar for the whole run, on a terminal: epoch, recon and KL of the epoch so far, time left.

    The terms are read from the device only when the bar is drawn, at most once in INTERVAL_S.
    """

    INTERVAL_S = 0.2

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the bar."""
        assert trainer.max_epochs is not None
        total = image_data(trainer).total_steps(trainer.max_epochs)
        shape = "{desc} {percentage:3.0f}%|{bar}| {remaining} left{postfix}"
        other = trainer.progress_bar_callback is not None  # the user's choice
        hidden = other or not (trainer.is_global_zero and sys.stderr.isatty())
        self.bar = tqdm(
            total=total, initial=trainer.global_step, disable=hidden, bar_format=shape, leave=False
        )
        self.drawn = 0.0

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Draws the bar if INTERVAL_S have passed."""
        if self.bar.disable or time.monotonic() - self.drawn < self.INTERVAL_S:
            return
        self.drawn = time.monotonic()
        assert isinstance(pl_module, VAE)
        _, recon, kl = pl_module.sums["train"].means()
        self.bar.n = trainer.global_step
        self.bar.set_description(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", refresh=False
        )
        self.bar.set_postfix_str(
            f"recon {decimals(recon, 2)}, kl {decimals(kl, 2)} nats", refresh=False
        )
        self.bar.refresh()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Closes the bar."""
        self.bar.close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Closes the bar of a run that ends early."""
        if hasattr(self, "bar"):
            self.bar.close()
