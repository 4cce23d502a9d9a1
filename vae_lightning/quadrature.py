"""Integrals over one or two latent dimensions on a grid, in float64. Shapes: P points, L latent dimensions."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """Points of a box with the trapezoid rule.

    It converges geometrically for a smooth function that vanishes at the edges of the box, whose weights there, which
    are not halved, do not matter: Trefethen & Weideman 2014, https://doi.org/10.1137/130932132.
    """

    axes: tuple[Tensor, ...]  # L vectors of evenly spaced coordinates

    @staticmethod
    def over(low: Tensor, high: Tensor, points: int) -> "Grid":
        """``points`` along each axis of the box from ``low`` (L,) to ``high`` (L,)."""
        ends = zip(low.tolist(), high.tolist(), strict=True)
        return Grid(tuple(torch.linspace(a, b, points, dtype=torch.float64) for a, b in ends))

    @staticmethod
    def cube(half_width: float, latent_dim: int, points: int) -> "Grid":
        """``points`` along each axis from -half_width to half_width."""
        high = torch.full((latent_dim,), half_width)
        return Grid.over(-high, high, points)

    @property
    def shape(self) -> torch.Size:
        """Points along each axis."""
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
        """Distance of neighbours along each axis, (L,)."""
        return torch.stack([axis[1] - axis[0] for axis in self.axes])

    @cached_property
    def points(self) -> Tensor:
        """All points, the last axis running fastest: (P, L)."""
        return torch.stack(torch.meshgrid(*self.axes, indexing="ij"), dim=-1).flatten(0, -2)

    def integral(self, values: Tensor) -> Tensor:
        """Integral of a function of z from its values (P, ...): (...)."""
        return values.sum(0) * self.step.prod()

    def log_integral(self, log_values: Tensor) -> Tensor:
        """Logarithm of the integral of a positive function from its logarithms (P, ...): (...)."""
        return log_values.logsumexp(0) + self.step.log().sum()

    def coarser(self, values: Tensor) -> tuple["Grid", Tensor]:
        """Every second point of each axis, and those of the values (P, ...) that belong there."""
        every_second = tuple(slice(None, None, 2) for _ in self.axes)
        there = values.unflatten(0, self.shape)[every_second].flatten(0, len(self.axes) - 1)
        return Grid(tuple(axis[::2] for axis in self.axes)), there


def standard_normal_weights(grid: Grid) -> Tensor:
    """Weights (P,) that turn values at the points into the expectation under N(0, I)."""
    log_density = (-0.5 * grid.points.square() - 0.5 * math.log(2 * math.pi)).sum(-1)
    return log_density.exp() * grid.step.prod()


def gauss_legendre(low: float, high: float, points: int = 100) -> tuple[Tensor, Tensor]:
    """Nodes and weights (P,) on an interval, for a smooth function that need not vanish at its ends."""
    import numpy as np

    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(points))
    half = (high - low) / 2
    return low + half * (nodes + 1), half * weights
