"""Integrals over one or two latent dimensions on a grid, in float64.

Shapes: P points, L latent dimensions.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """An evenly spaced grid on a box, with the trapezoid rule.

    The rule converges geometrically for a smooth function that vanishes at the edges of the box.
    All points have the same weight: halving the weights at the edges, as the trapezoid rule does,
    makes no difference to such a function.
    Trefethen & Weideman 2014, https://doi.org/10.1137/130932132.
    """

    axes: tuple[Tensor, ...]  # L vectors of evenly spaced coordinates

    @staticmethod
    def over(low: Tensor, high: Tensor, points: int) -> "Grid":
        """Returns the grid from ``low`` (L,) to ``high`` (L,) with ``points`` along each axis."""
        ends = zip(low.tolist(), high.tolist(), strict=True)
        return Grid(tuple(torch.linspace(a, b, points, dtype=torch.float64) for a, b in ends))

    @staticmethod
    def cube(half_width: float, latent_dim: int, points: int) -> "Grid":
        """Returns the grid from -half_width to half_width with ``points`` along each axis."""
        high = torch.full((latent_dim,), half_width)
        return Grid.over(-high, high, points)

    @property
    def shape(self) -> torch.Size:
        """The number of points along each axis."""
        return torch.Size(len(axis) for axis in self.axes)

    @property
    def low(self) -> Tensor:
        """The corner with the smallest coordinates, (L,)."""
        return torch.stack([axis[0] for axis in self.axes])

    @property
    def high(self) -> Tensor:
        """The corner with the largest coordinates, (L,)."""
        return torch.stack([axis[-1] for axis in self.axes])

    @property
    def step(self) -> Tensor:
        """The distance between neighboring points along each axis, (L,)."""
        return torch.stack([axis[1] - axis[0] for axis in self.axes])

    @cached_property
    def points(self) -> Tensor:
        """All points, (P, L); the coordinate of the last axis changes fastest."""
        return torch.stack(torch.meshgrid(*self.axes, indexing="ij"), dim=-1).flatten(0, -2)

    def integral(self, values: Tensor) -> Tensor:
        """Returns the integral of a function from its values at the points: (P, ...) -> (...)."""
        return values.sum(0) * self.step.prod()

    def log_integral(self, log_values: Tensor) -> Tensor:
        """Returns the log of the integral of a function from its log values: (P, ...) -> (...)."""
        return log_values.logsumexp(0) + self.step.log().sum()

    def coarser(self, values: Tensor) -> tuple["Grid", Tensor]:
        """Returns the grid with every second point of each axis, and the values (P, ...) on it."""
        every_second = tuple(slice(None, None, 2) for _ in self.axes)
        selected = values.unflatten(0, self.shape)[every_second].flatten(0, len(self.axes) - 1)
        return Grid(tuple(axis[::2] for axis in self.axes)), selected


def standard_normal_weights(grid: Grid) -> Tensor:
    """Returns weights (P,); the sum of weights times values is the expectation under N(0, I)."""
    log_density = (-0.5 * grid.points.square() - 0.5 * math.log(2 * math.pi)).sum(-1)
    return log_density.exp() * grid.step.prod()


def gauss_legendre(low: float, high: float, points: int = 100) -> tuple[Tensor, Tensor]:
    """Returns the nodes and the weights (P,) of Gauss-Legendre quadrature on an interval.

    Unlike on a Grid, a smooth function does not have to vanish at the ends of the interval.
    """
    import numpy as np

    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(points))
    half = (high - low) / 2
    return low + half * (nodes + 1), half * weights
