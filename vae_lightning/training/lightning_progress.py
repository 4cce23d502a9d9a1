"""The only place that uses private attributes of Lightning's loops (lightning 2.6)."""

from lightning.pytorch import Callback, Trainer


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """The callbacks of a trainer."""
    return getattr(trainer, "callbacks", [])  # Lightning sets it without declaring it


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
