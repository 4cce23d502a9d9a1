"""A callback that is called after every optimizer step, also on the fast path."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class StepCallback(Callback):
    """Base class of callbacks that act after every optimizer step.

    ``VAE.take_steps`` calls ``after_step`` where it takes several steps in one call by Lightning.
    Otherwise Lightning calls ``on_train_batch_end`` after every batch.
    """

    def __init__(self) -> None:
        self.steps = 0  # after which it was called

    def after_step(self, module: LightningModule, steps: int) -> None:
        """Called when this number of optimizer steps has been taken."""

    def count_step(self, module: LightningModule, steps: int) -> None:
        """Calls ``after_step`` once for each optimizer step."""
        if steps > self.steps:
            self.steps = steps
            self.after_step(module, steps)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Counts the step of a batch, unless that has been done already."""
        self.count_step(pl_module, trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """The number of steps."""
        return {"steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues with the number of steps."""
        self.steps = state_dict["steps"]
