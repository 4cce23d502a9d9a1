"""Normal distributions over latent vectors, and their closed-form KL divergences.

Shapes: K samples, B images, L latent dimensions. ``std`` is the standard deviation, never its logarithm or square.
No matrix product of float32 stands here: under autocast it would silently be one of bfloat16.
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


def kl_full_to_standard_normal(mean: Tensor, scale_tril: Tensor) -> Tensor:
    """KL(N(mean, S) || N(0, I)) for S = scale_tril scale_tril', (..., L) and (..., L, L), to (...), in nats.

    1/2 [tr S + mean' mean - L - log |S|], with log |S| = 2 sum_i log scale_tril_ii.
    """
    trace = scale_tril.square().sum((-2, -1))
    log_det = 2 * scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return 0.5 * (trace + mean.square().sum(-1) - mean.shape[-1] - log_det)


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
        return self.log_prob_per_dim(z).sum(-1)

    def log_prob_per_dim(self, z: Tensor) -> Tensor:
        """Log density of each coordinate of z (..., L), broadcast against (B, L), in nats: (..., L)."""
        standardised = (z - self.mean) / self.std
        return -0.5 * standardised.square() - self.std.log() - 0.5 * math.log(2 * math.pi)

    def cross_log_prob(self, z: Tensor) -> Tensor:
        """Log density of every z (..., L) under every one of the B normals: (..., B), by two matrix products.

        sum_i (z_i - m_i)^2 / s_i^2 is expanded, so it is computed in float64.
        """
        precise = at_most_float64(z)
        mean, precision = self.mean.to(precise.dtype), self.std.to(precise.dtype).square().reciprocal()
        square = precise.square() @ precision.T - 2 * precise @ (mean * precision).T
        constant = (mean.square() * precision - precision.log() + math.log(2 * math.pi)).sum(-1)
        return (-0.5 * (square + constant)).to(z.dtype)

    def marginals(self) -> "DiagonalNormal":
        """The distributions of the single coordinates."""
        return self

    def take(self, index: Tensor) -> "DiagonalNormal":
        """Those of the B normals."""
        return DiagonalNormal(self.mean[index], self.std[index])

    def detach(self) -> "DiagonalNormal":
        """The same, its parameters being constants."""
        return DiagonalNormal(self.mean.detach(), self.std.detach())


@dataclass(frozen=True)
class FullNormal:
    """N(mean, S) with mean (B, L) and S = scale_tril scale_tril', scale_tril (B, L, L) lower triangular."""

    mean: Tensor
    scale_tril: Tensor

    def rsample(self, noise: Tensor) -> Tensor:
        """z = mean + scale_tril eps for eps ~ N(0, I) of shape (K, B, L): (K, B, L)."""
        return self.mean + (self.scale_tril * noise.unsqueeze(-2)).sum(-1)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of z (K, B, L) in nats: (K, B)."""
        centred = (z - self.mean).unsqueeze(-1)  # (K, B, L, 1)
        scale_tril = self.scale_tril.expand(*centred.shape[:-2], -1, -1)
        standardised = torch.linalg.solve_triangular(scale_tril, centred, upper=False).squeeze(-1)
        return -0.5 * standardised.square().sum(-1) + self.log_constant()

    def log_constant(self) -> Tensor:
        """Log density at the mean, (B,)."""
        log_det = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -log_det - 0.5 * self.mean.shape[-1] * math.log(2 * math.pi)

    def cross_log_prob(self, z: Tensor) -> Tensor:
        """Log density of every z (..., L) under every one of the B normals: (..., B); computed in float64."""
        precise = at_most_float64(z)
        scale_tril = self.scale_tril.to(precise.dtype)
        identity = torch.eye(z.shape[-1], dtype=precise.dtype, device=z.device).expand_as(scale_tril)
        whitening = torch.linalg.solve_triangular(scale_tril, identity, upper=False)  # (B, L, L)
        offset = torch.einsum("bij,bj->bi", whitening, self.mean.to(precise.dtype))
        standardised = torch.einsum("bij,...j->...bi", whitening, precise) - offset
        return (-0.5 * standardised.square().sum(-1) + self.log_constant()).to(z.dtype)

    def marginals(self) -> DiagonalNormal:
        """The distributions of the single coordinates: N(mean_i, S_ii)."""
        return DiagonalNormal(self.mean, self.scale_tril.square().sum(-1).sqrt())

    def take(self, index: Tensor) -> "FullNormal":
        """Those of the B normals."""
        return FullNormal(self.mean[index], self.scale_tril[index])

    def detach(self) -> "FullNormal":
        """The same, its parameters being constants."""
        return FullNormal(self.mean.detach(), self.scale_tril.detach())


@dataclass(frozen=True)
class StandardNormal:
    """N(0, I) over ``latent_dim`` dimensions."""

    latent_dim: int

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of z (K, B, L) in nats: (K, B)."""
        return (-0.5 * z.square() - 0.5 * math.log(2 * math.pi)).sum(-1)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draws on the generator's device: (count, L)."""
        return torch.randn(count, self.latent_dim, generator=generator, device=generator.device)


def full_precision(x: Tensor) -> Tensor:
    """x in at least float32: densities are never computed in the half precision of an autocast network."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def at_most_float64(x: Tensor) -> Tensor:
    """x in float64, which autocast leaves alone; in float32 where the device has no better."""
    return x.float() if x.device.type == "mps" else x.double()
