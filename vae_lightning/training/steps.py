"""How a LightningModule takes optimizer steps: one by one or several in one call by Lightning."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from vae_lightning.checks.errors import ConfigError
from vae_lightning.data.batches import Batch, num_batches
from vae_lightning.data.images import image_data
from vae_lightning.training.callbacks.step import StepCallback
from vae_lightning.training.clipping import Clipping
from vae_lightning.training.lightning_progress import callbacks_of, count_optimizer_steps
from vae_lightning.training.schedulers import Schedule
from vae_lightning.training.sums import EpochSums

SPLITS = ("train", "val", "test")

# Takes one optimizer step: called with the batch, the optimizer and the number of the step.
StepFunction = Callable[[Batch, Optimizer, int], None]


class OptimizerSteps(LightningModule):
    """Base class of a module that is trained by the gradient of ``loss``.

    A step computes the gradient, is skipped if that is too large, clips it, and moves the weights;
    Lightning does so, or ``take_steps`` for several batches in one call by Lightning.

    Args:
        optimizer: called with the parameters.
        scheduler: called with the optimizer, ``total_steps`` and ``epochs``. None: a constant
            learning rate.
        clipping: limits the gradient of each optimizer step.
        skip_gradient_above: norm of the gradient, before it is clipped, above which an optimizer
            step is skipped; None: none is skipped.
        log_every_n_steps: of how many optimizer steps one logs its terms; None: no step does.
    """

    def __init__(
        self,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[..., Schedule] | None,
        clipping: Clipping | None,
        skip_gradient_above: float | None,
        log_every_n_steps: int | None,
    ) -> None:
        super().__init__()
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.clipping, self.skip_gradient_above = clipping, skip_gradient_above
        self.log_every_n_steps = log_every_n_steps
        self.skipped_steps = 0
        self.sums = {split: EpochSums() for split in SPLITS}
        self.fast_step: StepFunction | None = None

    def loss(self, batch: Batch, step: int, part: int = 0) -> Tensor:
        """The mean loss of the batch, (), which it adds to the sums of the epoch.

        ``part`` counts the batches whose gradients are accumulated for one step.
        """
        raise NotImplementedError

    def training_step(self, batch: Batch | Iterator[Batch], batch_idx: int) -> Tensor | None:
        """The loss of a batch, which Lightning optimizes; on the fast path the steps themselves."""
        if self.fast_step is None:
            step, part = self.global_step, batch_idx % self.trainer.accumulate_grad_batches
            with self.logged(step):
                return self.loss(batch, step, part)  # pyright: ignore[reportArgumentType] - batches are not grouped
        return self.take_steps(batch, self.fast_step)  # pyright: ignore[reportArgumentType] - batches are grouped

    @contextmanager
    def logged(self, step: int) -> Iterator[None]:
        """Logs the terms of the images that the body trains on, if this step is to be logged."""
        if self.log_every_n_steps is None or (step + 1) % self.log_every_n_steps:
            yield
            return
        sums = self.sums["train"]
        before = sums.snapshot()
        yield
        values = zip(("loss", "recon", "kl"), sums.means_since(before), strict=False)
        for logger in self.loggers:
            logger.log_metrics({f"train/{name}_step": value for name, value in values}, step)

    def take_step(self, batch: Batch, optimizer: Optimizer, step: int) -> None:
        """One optimizer step."""
        optimizer.zero_grad()
        self.loss(batch, step).backward()
        if self.skips(parameter.grad for parameter in self.parameters()):
            return
        if self.clipping is not None:
            self.clipping.clip_(self.parameters())
        optimizer.step()

    def skips(self, gradients: Iterable[Tensor | None]) -> bool:
        """Whether a step with these gradients is skipped, which is counted.

        Waits for the device, but only if steps may be skipped.
        """
        if self.skip_gradient_above is None:
            return False
        norm = get_total_norm([each for each in gradients if each is not None])
        is_skipped = not bool(norm <= self.skip_gradient_above)  # also if it is not a number
        self.skipped_steps += is_skipped
        return is_skipped

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """The step that Lightning takes where it takes the steps one by one."""
        if self.skip_gradient_above is not None and optimizer_closure is not None:
            loss = optimizer_closure()  # computes the gradient
            if self.skips(parameter.grad for parameter in self.parameters()):
                return
            optimizer_closure = lambda: loss  # noqa: E731 - Lightning requires a closure
        optimizer.step(closure=optimizer_closure)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the gradient of a step that Lightning takes: to the limit of the Trainer, if any.

        A run does not pass its limit to its Trainer, because the fast path clips without it.
        """
        if gradient_clip_val is not None:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif self.clipping is not None:
            self.clipping.clip_(self.parameters())

    def take_steps(self, batches: Iterator[Batch], take_step: StepFunction) -> None:
        """One optimizer step for each batch, within a single call by Lightning."""
        (optimizer,), scheduler = self.trainer.optimizers, self.scheduler_in_use()
        step = first = self.global_step
        watching = [each for each in callbacks_of(self.trainer) if isinstance(each, StepCallback)]
        for batch in batches:
            with self.logged(step):
                take_step(batch, optimizer, step)
            if scheduler is not None:
                scheduler.step()
            step += 1
            for callback in watching:
                callback.count_step(self, step)
        count_optimizer_steps(self.trainer, step - first)
        self.sums["train"].check()

    def scheduler_in_use(self) -> Schedule | None:
        """The schedule of the learning rate; None if it is constant."""
        found = self.lr_schedulers()
        return found if isinstance(found, Schedule) else None  # a callback may have replaced it

    def use_fast_path(self, take_step: StepFunction) -> None:
        """Lets ``take_step`` do the optimizer steps, several in each call by Lightning.

        The data module must then yield groups of batches. ``compile.accelerate`` decides this.
        """
        self.fast_step = take_step
        self.automatic_optimization = False

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer, and the schedule, which is stepped after every optimizer step."""
        optimizer = self.make_optimizer(self.parameters())
        if self.make_scheduler is None:
            return {"optimizer": optimizer}
        steps, epochs = self.training_length()
        scheduler = self.make_scheduler(optimizer, total_steps=steps, epochs=epochs)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def training_length(self) -> tuple[int, int]:
        """The optimizer steps of the training, and the epochs in which they are taken.

        On the fast path, Lightning counts groups of batches. Otherwise the training ends where
        Lightning's Trainer ends it, which may be another one than that of a run, or where the
        limits of the data do. Raises ConfigError if neither sets an end.
        """
        data, epochs = image_data(self.trainer), self.trainer.max_epochs
        if self.fast_step is not None:
            assert epochs is not None
            return data.total_steps(epochs), data.total_epochs(epochs)
        self.trainer.fit_loop.setup_data()  # which counts the batches
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise ConfigError("scheduler: requires max_epochs or max_steps of the Trainer")
        if data.limits.max_steps is not None:
            steps = min(steps, data.limits.max_steps)
        per_epoch = num_batches(
            int(self.trainer.num_training_batches), self.trainer.accumulate_grad_batches
        )
        return int(steps), num_batches(int(steps), per_epoch)
