"""Annealing schedules: functions that map the optimizer step to a factor in [0, 1]."""

import math
from typing import Annotated

from vae_lightning.checks.ranges import Integer, Option

Steps = Annotated[int, Option("optimizer steps until the factor is 1", Integer(1))]


class Annealing:
    """Base class of annealing schedules.

    Attributes:
        duration: optimizer steps until the factor stays 1.
    """

    duration = 0

    def __call__(self, step: int) -> float:
        """Returns the factor at this optimizer step, 0 <= factor <= 1."""
        raise NotImplementedError


class Constant(Annealing):
    """The factor is 1 at every step."""

    def __call__(self, step: int) -> float:
        """Returns 1."""
        return 1.0


class Linear(Annealing):
    """The factor is min(1, step / steps). Bowman et al. 2016, https://arxiv.org/abs/1511.06349."""

    def __init__(self, steps: Steps) -> None:
        self.steps = self.duration = steps

    def __call__(self, step: int) -> float:
        """Returns the factor, which is 0 at step 0 and 1 from step ``steps`` on."""
        return min(1.0, step / self.steps)


class Sigmoid(Annealing):
    """The factor is sigmoid(12 (step / steps - 1/2)).

    It is 0.0025 at step 0 and 0.9975 at step ``steps``, and approaches 1 afterwards. Bowman et al.
    2016, https://arxiv.org/abs/1511.06349.
    """

    def __init__(self, steps: Steps) -> None:
        self.steps = self.duration = steps

    def __call__(self, step: int) -> float:
        """Returns the factor, which is 1/2 at step ``steps`` / 2."""
        return 1 / (1 + math.exp(-12 * (step / self.steps - 0.5)))


class Cyclical(Annealing):
    """The factor rises linearly from 0 to 1 in the first half of each cycle and is 1 otherwise.

    There are ``cycles`` cycles of ``steps`` optimizer steps each. Fu et al. 2019,
    https://arxiv.org/abs/1903.10145.
    """

    def __init__(
        self,
        steps: Annotated[int, Option("optimizer steps of a cycle", Integer(1))],
        cycles: Annotated[int, Option("number of cycles", Integer(1))],
    ) -> None:
        self.steps, self.cycles = steps, cycles
        self.duration = steps * cycles

    def __call__(self, step: int) -> float:
        """Returns min(1, 2 * fraction of the current cycle); 1 after the last cycle."""
        if step >= self.steps * self.cycles:
            return 1.0
        return min(1.0, 2 * (step % self.steps) / self.steps)
