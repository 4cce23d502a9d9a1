"""Schedules of a weight by optimiser step: objects called with the step, values in [0, 1]."""

import math


class Annealing:
    """A function of the optimiser step."""

    def __call__(self, step: int) -> float:
        """The factor at this optimiser step, 0 <= factor <= 1."""
        raise NotImplementedError


class Constant(Annealing):
    """1 at every step."""

    def __call__(self, step: int) -> float:
        """1."""
        return 1.0


class Linear(Annealing):
    """min(1, step / steps): Bowman et al. 2016, https://arxiv.org/abs/1511.06349."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __call__(self, step: int) -> float:
        """From 0 at step 0 to 1 at ``steps``."""
        return min(1.0, step / self.steps)


class Sigmoid(Annealing):
    """sigmoid(12 (step / steps - 1/2)), from 0.0025 to 0.9975, then on to 1: Bowman et al. 2016, 1511.06349."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __call__(self, step: int) -> float:
        """1/2 at half of ``steps``."""
        return 1 / (1 + math.exp(-12 * (step / self.steps - 0.5)))


class Cyclical(Annealing):
    """``cycles`` times: linear from 0 to 1 in the first half of ``steps``, 1 in the second; then 1.

    Fu et al. 2019, https://arxiv.org/abs/1903.10145.
    """

    def __init__(self, steps: int, cycles: int) -> None:
        self.steps, self.cycles = steps, cycles

    def __call__(self, step: int) -> float:
        """Twice the fraction of the cycle that is done, at most 1."""
        if step >= self.steps * self.cycles:
            return 1.0
        return min(1.0, 2 * (step % self.steps) / self.steps)
