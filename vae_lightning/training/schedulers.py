"""Learning-rate schedules by optimizer step or by epoch, with a warm-up."""

import inspect
import math
from collections.abc import Callable
from typing import Annotated, Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from vae_lightning.checks.errors import ConfigError
from vae_lightning.checks.ranges import Number, Option
from vae_lightning.config.instantiate import is_within

Final = Annotated[float, Option("final learning rate / optimizer.lr", Number(least=0, most=1))]


class Linear(LambdaLR):
    """A straight line down to ``final`` times the learning rate: 1 - (1 - final) t / T.

    T is ``total_steps``. A run that is resumed with more epochs continues on the longer line.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, final: Final = 0.0) -> None:
        super().__init__(optimizer, lambda step: 1 - (1 - final) * fraction(step, total_steps))


class Cosine(LambdaLR):
    """Half a cosine down to ``final`` times the learning rate.

    lr_t / lr = final + (1 - final) / 2 * (1 + cos(pi t / T)), with T ``total_steps``. Loshchilov &
    Hutter 2017, without restarts, https://arxiv.org/abs/1608.03983. A run that is resumed with more
    epochs continues on the longer curve: the learning rate is a function of the step and of
    ``total_steps``, not of saved state.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, final: Final = 0.0) -> None:
        def factor(step: int) -> float:
            progress = fraction(step, total_steps)
            return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))

        super().__init__(optimizer, factor)


def fraction(step: int, total_steps: int) -> float:
    """The fraction of the steps that are done, in [0, 1]."""
    return min(1.0, step / max(1, total_steps))


class Schedule(LRScheduler):
    """A scheduler of PyTorch that is stepped by optimizer step or by epoch, after a warm-up.

    In the w ``warmup_steps``, lr_t = lr (t + 1) / (w + 1), where lr is the learning rate with which
    the scheduler begins. The scheduler itself then begins at step w; by epoch, it is stepped at the
    end of every epoch that ends after the warm-up. ReduceLROnPlateau is given the validation value
    that selects best.ckpt.

    Args:
        optimizer: whose learning rate changes.
        total_steps: optimizer steps of the training.
        epochs: of the training.
        make: called with the optimizer and, if it takes it, the number of steps or epochs after the
            warm-up as ``total_steps``; None: the learning rate is constant after the warm-up.
        interval: ``step`` or ``epoch``.
        warmup_steps: optimizer steps of the warm-up.

    Raises ConfigError for arguments that PyTorch refuses, and for a warm-up that is longer than the
    training.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        epochs: int,
        make: Callable[..., LRScheduler] | None = None,
        interval: str = "step",
        warmup_steps: int = 0,
    ) -> None:
        if warmup_steps > total_steps:
            raise ConfigError(
                f"scheduler.warmup_steps={warmup_steps}: must be at most {total_steps},"
                " the steps of the training"
            )
        self.optimizer, self.interval, self.warmup_steps = optimizer, interval, warmup_steps
        remaining = total_steps - warmup_steps
        if interval == "epoch":
            remaining = math.ceil(remaining * epochs / total_steps)
        self.scheduler = make and build(make, optimizer, max(1, remaining))
        if isinstance(self.scheduler, ReduceLROnPlateau) and interval == "step":
            raise ConfigError(
                "scheduler.interval=step: must be epoch for ReduceLROnPlateau, because it waits for"
                " validation"
            )
        self.built = {} if self.scheduler is None else dict(self.scheduler.state_dict())
        self.steps = 0
        self.first_rates = [group["lr"] for group in optimizer.param_groups]
        self.warm_up()

    def warm_up(self) -> None:
        """Sets the learning rate of a step of the warm-up, or of the first step after it."""
        if self.warmup_steps:
            factor = (self.steps + 1) / (self.warmup_steps + 1)
            for group, rate in zip(self.optimizer.param_groups, self.first_rates, strict=True):
                group["lr"] = rate * factor

    def step(self, epoch: int | None = None) -> None:
        """Counts an optimizer step and sets the learning rate of the next one."""
        self.steps += 1
        if self.steps <= self.warmup_steps:
            self.warm_up()
        elif self.scheduler is not None and self.interval == "step":
            self.scheduler.step()

    def end_epoch(self, value: float | None) -> None:
        """Sets the learning rate of the next epoch, given the validation value of this one."""
        if self.scheduler is None or self.interval == "step" or self.steps <= self.warmup_steps:
            return
        if not isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step()
        elif value is not None:
            self.scheduler.step(value)

    def state_dict(self) -> dict[str, Any]:
        """The number of steps, and what has changed in the scheduler since it was built.

        What was built in, such as the number of steps, may be another one in a resumed run.
        """
        state = {} if self.scheduler is None else self.scheduler.state_dict()
        changed = {key: value for key, value in state.items() if value != self.built.get(key)}
        return {"steps": self.steps, "scheduler": changed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from the state in a checkpoint."""
        self.steps = state_dict["steps"]
        if self.scheduler is not None:
            self.scheduler.load_state_dict(self.built | state_dict["scheduler"])


def build(make: Callable[..., LRScheduler], optimizer: Optimizer, steps: int) -> LRScheduler:
    """Calls ``make``, with ``total_steps`` if it takes it and does not have it already."""
    parameters = inspect.signature(make).parameters
    given = getattr(make, "keywords", {})
    needs_steps = "total_steps" in parameters and "total_steps" not in given
    try:
        return make(optimizer, total_steps=steps) if needs_steps else make(optimizer)
    except (TypeError, ValueError, KeyError) as error:
        if not is_within(getattr(make, "func", make).__module__, ("torch.optim",)):
            raise
        raise ConfigError(f"scheduler: {error}") from error
