"""Normal distributions over latent vectors, and their closed-form KL divergences.

Shapes: K samples, B images, L latent dimensions. ``std`` is the standard deviation, never its logarithm or square.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def kl_to_standard_normal(mean: Tensor, std: Tensor) -> Tensor:
    """KL(N(mean, diag(std^2)) || N(0, I)), the seed's term, per image in nats.

    -1/2 sum_i (1 + 2 log std_i - mean_i^2 - std_i^2), from (..., L) to (...).
    Kingma & Welling 2014, appendix B, https://arxiv.org/abs/1312.6114.
    """
    return -0.5 * (1 + 2 * std.log() - mean.square() - std.square()).sum(-1)


def kl_diagonal_normals(mean0: Tensor, std0: Tensor, mean1: Tensor, std1: Tensor) -> Tensor:
    """KL(N(mean0, diag(std0^2)) || N(mean1, diag(std1^2))) in nats, from (..., L) to (...).

    1/2 sum_i [(std0_i / std1_i)^2 + ((mean0_i - mean1_i) / std1_i)^2 - 1 - 2 log(std0_i / std1_i)].
    """
    ratio = std0 / std1
    return 0.5 * (ratio.square() + ((mean0 - mean1) / std1).square() - 1 - 2 * ratio.log()).sum(-1)


@dataclass(frozen=True)
class DiagonalNormal:
    """N(mean, diag(std^2)) with mean and std of shape (B, L)."""

    mean: Tensor
    std: Tensor

    def rsample(self, noise: Tensor) -> Tensor:
        """z = mean + std * eps for eps ~ N(0, I) of shape (K, B, L): the reparameterised sample, (K, B, L)."""
        return self.mean + self.std * noise

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of z (K, B, L) in nats, summed over the latent dimensions: (K, B)."""
        standardised = (z - self.mean) / self.std
        return (-0.5 * standardised.square() - self.std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)


@dataclass(frozen=True)
class StandardNormal:
    """N(0, I) over any number of dimensions."""

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of z (K, B, L) in nats: (K, B)."""
        return (-0.5 * z.square() - 0.5 * math.log(2 * math.pi)).sum(-1)


def full_precision(x: Tensor) -> Tensor:
    """x in at least float32: densities are never computed in the half precision of an autocast network."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
