"""The only place that uses private attributes of Lightning's loops (lightning 2.6)."""

from typing import Any

from lightning.pytorch import Callback, Trainer


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """The callbacks of a trainer."""
    return getattr(trainer, "callbacks", [])  # Lightning sets it without declaring it


def batches_done(trainer: Trainer) -> int:
    """Calls of ``training_step`` in the current epoch."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready


def count_optimizer_steps(trainer: Trainer, count: int) -> None:
    """Tells Lightning how many optimizer steps one call of ``training_step`` took.

    With manual optimization, Lightning counts a step only if its own wrapper of the optimizer takes
    it, and it numbers logged values by its calls of ``training_step``.
    """
    epoch_loop = trainer.fit_loop.epoch_loop
    progress = epoch_loop.manual_optimization.optim_step_progress
    for _ in range(count):
        progress.increment_ready()
        progress.increment_completed()
    epoch_loop._batches_that_stepped += count - 1  # Lightning adds the one of its call


def number_test(trainer: Trainer) -> None:
    """Lets Lightning log the test at the last step, also if a resumed run only repeats the test."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step


def set_groups_done(checkpoint: dict[str, Any], count: int) -> None:
    """Lets Lightning continue an epoch of a checkpoint after ``count`` of its calls.

    What Lightning counts are groups of batches, which may be others than in the run that was
    stopped; the group that the stop has cut is not done.
    """
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    current = progress["current"]
    open_calls = current["ready"] - current["completed"]  # 1 in a hook at the end of a call
    progress["current"] = current | {
        "ready": count,
        "started": count,
        "processed": count,
        "completed": count - open_calls,
    }
    progress["is_last_batch"] = False
