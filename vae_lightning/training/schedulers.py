"""Learning-rate schedules by optimizer step; ``constant`` needs none."""

import math
from typing import Annotated

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from vae_lightning.checks.errors import ConfigError
from vae_lightning.checks.ranges import Integer, Number, Option


class Cosine(LambdaLR):
    """Linear warm-up, then half a cosine down to ``final`` times the learning rate.

    lr_t / lr = (t + 1) / (w + 1) for t < w, then
    final + (1 - final) / 2 * (1 + cos(pi (t - w) / (T - w))), with w ``warmup_steps`` and T
    ``total_steps``. Loshchilov & Hutter 2017, without restarts, https://arxiv.org/abs/1608.03983.
    A run that is resumed with more epochs continues on the longer curve: the learning rate is a
    function of the step and of ``total_steps``, not of saved state.

    Raises ConfigError if the warm-up is longer than the training.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        warmup_steps: Annotated[int, Option("steps of linear warm-up", Integer(0))] = 0,
        final: Annotated[
            float, Option("final learning rate / optimizer.lr", Number(least=0, most=1))
        ] = 0.0,
    ) -> None:
        if warmup_steps > total_steps:
            raise ConfigError(
                f"scheduler.warmup_steps={warmup_steps}: must be at most {total_steps},"
                " the steps of the training"
            )

        def factor(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / (warmup_steps + 1)
            progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
            return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))

        super().__init__(optimizer, factor)
