"""Says why a training has ended before its last epoch."""

from collections.abc import Iterator, Mapping

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer

from vae_lightning.training.callbacks.limit import Limit
from vae_lightning.training.lightning_progress import callbacks_of


def why_stopped(trainer: Trainer, row: Mapping[str, float]) -> str | None:
    """Why the training ended with this row before its last epoch; None if it did not."""
    assert trainer.max_epochs is not None
    if row["epoch"] >= trainer.max_epochs:
        return None
    name, why = next(reasons(trainer), ("a callback", None))
    done = f"at step {row['step']:.0f}, after {row['epoch']:.6g} of {trainer.max_epochs} epochs"
    return f"stopped by {name} {done}" + (f": {why}" if why else "")


def reasons(trainer: Trainer) -> Iterator[tuple[str, str | None]]:
    """Yields what asked for the end of the training, limits first, and why."""
    callbacks = callbacks_of(trainer)
    for each in callbacks:
        if isinstance(each, Limit) and (option := each.reached()):
            yield option, None
    for each in callbacks:
        if isinstance(each, EarlyStopping) and each.stopping_reason_message:
            yield type(each).__name__, each.stopping_reason_message
        elif isinstance(each, Timer) and each.time_remaining() == 0:
            yield type(each).__name__, f"{each.time_elapsed():.0f} s have passed"
