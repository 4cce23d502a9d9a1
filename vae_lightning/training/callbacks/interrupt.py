"""Stops a run when it is asked to, so that it can continue."""

import logging
import os
import signal
from pathlib import Path
from types import FrameType

from lightning.pytorch import Callback, LightningModule, Trainer

from vae_lightning.checks.errors import Interrupted
from vae_lightning.storage.run_folder import write_status
from vae_lightning.training.callbacks.recorder import Recorder

log = logging.getLogger(__name__)


class Interrupt(Callback):
    """Stops the run at the first Ctrl-C or SIGTERM: saves last.ckpt and raises Interrupted.

    The second signal ends the process at once. A run that is resumed from the checkpoint gives the
    same numbers as a run that was never interrupted.
    """

    def __init__(self, run: Path, recorder: Recorder) -> None:
        self.run, self.recorder, self.received = run, recorder, False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Handles the signals on rank 0; the other ranks ignore them."""
        self.handlers = {
            number: signal.signal(
                number, self.receive if trainer.is_global_zero else signal.SIG_IGN
            )
            for number in (signal.SIGINT, signal.SIGTERM)
        }

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Remembers the first signal; the second one ends the process at once."""
        if self.received:
            write_status(self.run, "interrupted")
            os._exit(130)
        self.received = True
        log.info("stopping after this step; press Ctrl-C again to stop now")

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Saves and stops if a signal was received on any rank."""
        stop = self.received
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop:
            self.recorder.save(trainer)
            raise Interrupted(self.run)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restores the handlers; a signal after the last step takes effect now, after saving."""
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        if self.received:
            raise Interrupted(self.run)
