"""Normal distributions over latent vectors, and their closed-form KL divergences.

``std`` is the standard deviation, never its logarithm or square. This module has no float32 matrix
products, because autocast would silently compute them in bfloat16.
Shapes: K samples, B images, L latent dimensions.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


def kl_to_standard_normal(
    mean: Float[Tensor, "*B L"], std: Float[Tensor, "*B L"]
) -> Float[Tensor, "*B"]:
    """Returns KL(N(mean, diag(std^2)) || N(0, I)) per image in nats.

    -1/2 sum_i (1 + 2 log std_i - mean_i^2 - std_i^2), from (..., L) to (...).
    Kingma & Welling 2014, appendix B, https://arxiv.org/abs/1312.6114.
    """
    return -0.5 * (1 + 2 * std.log() - mean.square() - std.square()).sum(-1)


def kl_diagonal_normals(
    mean0: Float[Tensor, "*B L"],
    std0: Float[Tensor, "*B L"],
    mean1: Float[Tensor, "... L"],
    std1: Float[Tensor, "... L"],
) -> Float[Tensor, "*B"]:
    """Returns KL(N(mean0, diag(std0^2)) || N(mean1, diag(std1^2))) in nats, (..., L) to (...).

    1/2 sum_i [(std0_i / std1_i)^2 + ((mean0_i - mean1_i) / std1_i)^2 - 1 - 2 log(std0_i / std1_i)].
    """
    ratio = std0 / std1
    return 0.5 * (ratio.square() + ((mean0 - mean1) / std1).square() - 1 - 2 * ratio.log()).sum(-1)


def kl_full_to_standard_normal(
    mean: Float[Tensor, "*B L"], scale_tril: Float[Tensor, "*B L L"]
) -> Float[Tensor, "*B"]:
    """Returns KL(N(mean, S) || N(0, I)) in nats for the covariance S = scale_tril scale_tril'.

    1/2 [tr S + mean' mean - L - log |S|] with log |S| = 2 sum_i log scale_tril_ii,
    from (..., L) and (..., L, L) to (...).
    """
    trace = scale_tril.square().sum((-2, -1))
    log_det = 2 * scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return 0.5 * (trace + mean.square().sum(-1) - mean.shape[-1] - log_det)


@dataclass(frozen=True)
class DiagonalNormal:
    """N(mean, diag(std^2)) with mean and std of shape (B, L)."""

    mean: Float[Tensor, "B L"]
    std: Float[Tensor, "B L"]

    def transform(self, noise: Float[Tensor, "K B L"]) -> Float[Tensor, "K B L"]:
        """Returns the reparameterized sample z = mean + std * eps for noise eps (K, B, L)."""
        return self.mean + self.std * noise

    def log_prob(self, z: Float[Tensor, "... L"]) -> Float[Tensor, "..."]:
        """Returns the log density of z (K, B, L) in nats: (K, B)."""
        return self.log_prob_per_dim(z).sum(-1)

    def log_prob_per_dim(self, z: Float[Tensor, "... L"]) -> Float[Tensor, "... L"]:
        """Returns the log density of each dimension of z in nats: (..., L).

        z (..., L) broadcasts with (B, L).
        """
        standardized = (z - self.mean) / self.std
        return -0.5 * standardized.square() - self.std.log() - 0.5 * math.log(2 * math.pi)

    def cross_log_prob(self, z: Float[Tensor, "*shape L"]) -> Float[Tensor, "*shape B"]:
        """Returns the log density of each z (..., L) under each of the B distributions: (..., B).

        sum_i (z_i - m_i)^2 / s_i^2 is expanded into two matrix products. They are computed in
        float64, because the expansion suffers from cancellation.
        """
        precise = float64_if_supported(z)
        mean, precision = (
            self.mean.to(precise.dtype),
            self.std.to(precise.dtype).square().reciprocal(),
        )
        square = precise.square() @ precision.T - 2 * precise @ (mean * precision).T
        constant = (mean.square() * precision - precision.log() + math.log(2 * math.pi)).sum(-1)
        return (-0.5 * (square + constant)).to(z.dtype)

    def marginals(self) -> "DiagonalNormal":
        """Returns the marginals of the L dimensions, which are the distribution itself."""
        return self

    def take(self, index: Int[Tensor, " n"] | slice) -> "DiagonalNormal":
        """Returns the distributions at these positions of the batch."""
        return DiagonalNormal(self.mean[index], self.std[index])

    def detach(self) -> "DiagonalNormal":
        """Returns the same distribution without gradients to its parameters."""
        return DiagonalNormal(self.mean.detach(), self.std.detach())


@dataclass(frozen=True)
class FullNormal:
    """N(mean, S) with mean (B, L) and covariance S = scale_tril scale_tril'.

    scale_tril (B, L, L) is lower triangular.
    """

    mean: Float[Tensor, "B L"]
    scale_tril: Float[Tensor, "B L L"]

    def transform(self, noise: Float[Tensor, "K B L"]) -> Float[Tensor, "K B L"]:
        """Returns the reparameterized sample z = mean + scale_tril eps for noise eps (K, B, L)."""
        return self.mean + (self.scale_tril * noise.unsqueeze(-2)).sum(-1)

    def log_prob(self, z: Float[Tensor, "... L"]) -> Float[Tensor, "..."]:
        """Returns the log density of z (K, B, L) in nats: (K, B)."""
        centered = (z - self.mean).unsqueeze(-1)  # (K, B, L, 1)
        scale_tril = self.scale_tril.expand(*centered.shape[:-2], -1, -1)
        standardized = torch.linalg.solve_triangular(scale_tril, centered, upper=False).squeeze(-1)
        return -0.5 * standardized.square().sum(-1) + self.log_density_at_mean()

    def log_density_at_mean(self) -> Float[Tensor, " B"]:
        """Returns the log density at the mean, -log |scale_tril| - L/2 log 2 pi: (B,)."""
        log_det = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -log_det - 0.5 * self.mean.shape[-1] * math.log(2 * math.pi)

    def cross_log_prob(self, z: Float[Tensor, "*shape L"]) -> Float[Tensor, "*shape B"]:
        """Returns the log density of each z (..., L) under each of the B distributions: (..., B).

        The products are computed in float64, which autocast does not change.
        """
        precise = float64_if_supported(z)
        scale_tril = self.scale_tril.to(precise.dtype)
        identity = torch.eye(z.shape[-1], dtype=precise.dtype, device=z.device).expand_as(
            scale_tril
        )
        whitening = torch.linalg.solve_triangular(scale_tril, identity, upper=False)  # (B, L, L)
        offset = torch.einsum("bij,bj->bi", whitening, self.mean.to(precise.dtype))
        standardized = torch.einsum("bij,...j->...bi", whitening, precise) - offset
        return (-0.5 * standardized.square().sum(-1) + self.log_density_at_mean()).to(z.dtype)

    def marginals(self) -> DiagonalNormal:
        """Returns the marginals N(mean_i, S_ii) of the L dimensions."""
        return DiagonalNormal(self.mean, self.scale_tril.square().sum(-1).sqrt())

    def take(self, index: Int[Tensor, " n"] | slice) -> "FullNormal":
        """Returns the distributions at these positions of the batch."""
        return FullNormal(self.mean[index], self.scale_tril[index])

    def detach(self) -> "FullNormal":
        """Returns the same distribution without gradients to its parameters."""
        return FullNormal(self.mean.detach(), self.scale_tril.detach())


@dataclass(frozen=True)
class StandardNormal:
    """N(0, I) over ``latent_dim`` dimensions."""

    latent_dim: int

    def log_prob(self, z: Float[Tensor, "*shape L"]) -> Float[Tensor, "*shape"]:
        """Returns the log density of z (K, B, L) in nats: (K, B)."""
        return (-0.5 * z.square() - 0.5 * math.log(2 * math.pi)).sum(-1)

    def sample(self, count: int, generator: torch.Generator) -> Float[Tensor, "{count} L"]:
        """Returns samples (count, L) on the generator's device."""
        return torch.randn(count, self.latent_dim, generator=generator, device=generator.device)


def full_precision(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Converts half-precision outputs of an autocast network to float32, to compute densities."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def float64_if_supported(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Converts x to float64, which autocast does not change.

    MPS does not support float64; x is float32 there.
    """
    return x.float() if x.device.type == "mps" else x.double()
