"""Stops a run when it is asked to, so that it can continue."""

import signal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from vae_lightning.checks.errors import Interrupted, Pruned
from vae_lightning.storage.run_folder import STOP
from vae_lightning.training.callbacks.recorder import Recorder, is_within_epoch
from vae_lightning.training.signals import StopSignals


class Interrupt(Checkpoint):
    """Stops at the end of a training step, of an epoch or of a test batch if a signal asks for it.

    A run that is resumed from the checkpoint gives the same numbers as a run that was never
    interrupted. After the last step of an epoch, the validation and the row of the epoch come
    first. As a Checkpoint this callback is called after the recorder, if it is listed after it.
    """

    def __init__(self, stop: StopSignals, recorder: Recorder) -> None:
        self.stop, self.recorder = stop, recorder

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the signals back from Lightning, which handles SIGTERM itself."""
        self.stop.install()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the signals back from Lightning, which handles SIGTERM itself."""
        self.stop.install()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Saves and stops within an epoch, unless Lightning now validates or has to go on.

        After the last step of a run, too, the validation and the row come first: a checkpoint
        without the row would not tell that the run is at its end.
        """
        is_due = (batch_idx + 1) % int(trainer.val_check_interval) == 0 or trainer.should_stop
        is_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if is_step and not is_due and not trainer.is_last_batch and self.is_asked(trainer):
            self.recorder.save(trainer)
            raise self.interrupted()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves and stops after a validation within an epoch."""
        is_end = trainer.sanity_checking or trainer.fit_loop.epoch_loop.done
        if not is_end and is_within_epoch(trainer) and self.is_asked(trainer):
            self.recorder.save(trainer)
            raise self.interrupted()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops between two epochs; the recorder has saved.

        Here, a search may ask for it too.
        """
        if self.is_asked(trainer):
            raise self.interrupted()
        run = self.recorder.run
        if any_rank(trainer, trainer.is_global_zero and (run / STOP).exists()):
            raise Pruned(run)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stops within the test; a resumed run repeats the test."""
        if self.is_asked(trainer):
            raise self.interrupted()

    def is_asked(self, trainer: Trainer) -> bool:
        """Whether a signal was received on any rank."""
        return any_rank(trainer, self.stop.received is not None)

    def interrupted(self) -> Interrupted:
        """The exception; a process that received no signal itself takes it for SIGTERM."""
        return Interrupted(self.stop.received or signal.SIGTERM)


def any_rank(trainer: Trainer, condition: bool) -> bool:
    """Whether a condition holds on any rank; every rank must call this."""
    if trainer.world_size == 1:
        return condition
    return trainer.strategy.reduce_boolean_decision(condition, all=False)
