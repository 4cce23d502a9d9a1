"""Ends a run after a number of steps or a time, so that it can continue."""

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from vae_lightning.training.callbacks.recorder import Recorder, is_within_epoch


class Limit(Checkpoint):
    """Ends a run at ``trainer.max_steps`` or ``trainer.max_time``, with a validation and a row.

    As a Checkpoint this callback is called after the recorder, if it is listed after it.

    Args:
        recorder: saves the state from which the run may continue.
        max_steps: None: no limit.
        max_seconds: of training, also before a resume. None: no limit.
        min_steps, min_epochs: the time limit waits for them.
    """

    def __init__(
        self,
        recorder: Recorder,
        max_steps: int | None,
        max_seconds: int | None,
        min_steps: int = 0,
        min_epochs: int = 0,
    ) -> None:
        self.recorder = recorder
        self.max_steps, self.max_seconds = max_steps, max_seconds
        self.min_steps, self.min_epochs = min_steps, min_epochs
        self.is_time_over = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets a resumed run that has reached its limit end at once, with its test."""
        rows = self.recorder.rows
        seconds = sum(row["seconds"] for row in rows)
        self.is_time_over = self.max_seconds is not None and seconds >= self.max_seconds
        has_steps = self.max_steps is not None and rows and rows[-1]["step"] >= self.max_steps
        trainer.should_stop = bool(self.is_time_over or has_steps)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Ends the run after this step."""
        is_step = trainer.is_last_batch or not (batch_idx + 1) % trainer.accumulate_grad_batches
        if not is_step or not self.is_reached(trainer):
            return
        trainer.should_stop = True
        if is_within_epoch(trainer):
            self.recorder.hold(trainer)

    def is_reached(self, trainer: Trainer) -> bool:
        """Whether a limit is reached."""
        if self.max_steps is not None and trainer.global_step >= self.max_steps:
            return True
        if self.max_seconds is None:
            return False
        epochs = trainer.current_epoch + (not is_within_epoch(trainer))
        if trainer.global_step < self.min_steps or epochs < self.min_epochs:
            return False
        is_over = self.recorder.seconds(trainer.current_epoch) >= self.max_seconds
        if trainer.world_size > 1:  # each process has its own clock
            is_over = trainer.strategy.reduce_boolean_decision(is_over, all=False)
        self.is_time_over = is_over
        return is_over

    def reached(self) -> str | None:
        """The option whose limit has ended the run; None if none has."""
        if self.max_steps is not None and self.recorder.rows[-1]["step"] >= self.max_steps:
            return "trainer.max_steps"
        return "trainer.max_time" if self.is_time_over else None
