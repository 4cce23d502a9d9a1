"""A row of the table: what an identity says, its two sides, and how near they have to be."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vae_lightning import rng

EXACT = 1e-10  # float64, sums of moderate size
STANDARD_ERRORS = 5.0  # of a Monte Carlo mean: a correct one is farther off once in two million


@dataclass(frozen=True)
class Row:
    """left = right, or left <= right, within a tolerance; nats unless it says otherwise."""

    says: str
    left: float
    right: float
    tolerance: float = EXACT
    relation: str = "="  # or <=

    @property
    def difference(self) -> float:
        """Left less right."""
        return self.left - self.right

    @property
    def ok(self) -> bool:
        """Whether it holds; not where a side is not a number."""
        return (abs(self.difference) if self.relation == "=" else self.difference) <= self.tolerance


def at_most(says: str, left: float | Tensor, right: float | Tensor, tolerance: float = 0.0) -> Row:
    """The row of an inequality."""
    return Row(says, float(left), float(right), tolerance, "<=")


def worst(says: str, left: Tensor, right: Tensor | float, tolerance: Tensor | float = EXACT) -> Row:
    """The row of an identity of many numbers, shown where the two sides differ most in units of the tolerance."""
    left, right, tolerance = torch.broadcast_tensors(
        left.double(), *(torch.as_tensor(side, dtype=torch.float64) for side in (right, tolerance))
    )
    apart = ((left - right).abs() / tolerance).nan_to_num(nan=math.inf).flatten()
    index = int(apart.argmax())
    return Row(says, *(float(side.flatten()[index]) for side in (left, right, tolerance)))


def sampled(says: str, draws: Tensor, right: Tensor | float) -> Row:
    """The row of a Monte Carlo mean over the first axis of ``draws`` (R, ...), within STANDARD_ERRORS of it."""
    return worst(says, draws.mean(0), right, STANDARD_ERRORS * standard_error(draws))


def standard_error(draws: Tensor) -> Tensor:
    """Standard error of the mean over the first axis: (R, ...) -> (...)."""
    return draws.std(0) / math.sqrt(len(draws))


def normal(name: str, *shape: int) -> Tensor:
    """Fixed draws from N(0, 1) in float64: the same for the same name and shape."""
    return torch.randn(shape, generator=rng.generator("cpu", 0, "verify", name), dtype=torch.float64)
