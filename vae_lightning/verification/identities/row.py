"""A row of the table of identities: the statement, its two sides, and the tolerance."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vae_lightning import rng

EXACT = 1e-10  # float64, sums of moderate size
STANDARD_ERRORS = 5.0  # tolerance of Monte Carlo means; a correct mean exceeds it once in 2 million


@dataclass(frozen=True)
class Row:
    """left = right or left <= right, within a tolerance; in nats unless the statement differs."""

    statement: str
    left: float
    right: float
    tolerance: float = EXACT
    relation: str = "="  # or <=

    @property
    def difference(self) -> float:
        """Left minus right."""
        return self.left - self.right

    @property
    def ok(self) -> bool:
        """Whether the row holds; False if a side is NaN."""
        return (abs(self.difference) if self.relation == "=" else self.difference) <= self.tolerance


def inequality(
    statement: str, left: float | Tensor, right: float | Tensor, tolerance: float = 0.0
) -> Row:
    """Returns the row of the inequality left <= right."""
    return Row(statement, float(left), float(right), tolerance, "<=")


def equality(
    statement: str, left: Tensor, right: Tensor | float, tolerance: Tensor | float = EXACT
) -> Row:
    """Returns the row of an identity between tensors.

    The row shows the element at which the difference divided by the tolerance is largest.
    """
    values = torch.broadcast_tensors(
        left.double(), *(torch.as_tensor(side, dtype=torch.float64) for side in (right, tolerance))
    )
    errors = (values[0] - values[1]).abs() / values[2]
    index = int(errors.nan_to_num(nan=math.inf).flatten().argmax())
    one, other, allowed = (float(value.flatten()[index]) for value in values)
    return Row(statement, one, other, allowed)


def monte_carlo(statement: str, draws: Tensor, right: Tensor | float) -> Row:
    """Returns the row of a Monte Carlo mean over the first axis of ``draws`` (R, ...).

    The tolerance is STANDARD_ERRORS standard errors of the mean.
    """
    return equality(statement, draws.mean(0), right, STANDARD_ERRORS * standard_error(draws))


def standard_error(draws: Tensor) -> Tensor:
    """Returns the standard error of the mean over the first axis: (R, ...) -> (...)."""
    return draws.std(0) / math.sqrt(len(draws))


def normal(name: str, *shape: int) -> Tensor:
    """Returns fixed draws from N(0, 1) in float64, which depend only on the name and the shape."""
    return torch.randn(
        shape, generator=rng.generator("cpu", 0, "verify", name), dtype=torch.float64
    )
