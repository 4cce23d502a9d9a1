"""Posteriors q(z|x): modules that hold an encoder and return a distribution over latent vectors.

Every posterior takes the argument ``network``: a function that is called with the number of outputs
and returns the encoder network, which maps x (B, C, H, W) to (B, outputs). In a conditional model,
the labels are passed to the encoder network.
Shapes: B images, L latent dimensions, C H W of an image.
"""

from collections.abc import Callable, Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vae_lightning.checks.errors import ConfigError
from vae_lightning.checks.ranges import AnyOf, Boolean, Choice, List, Number, Option
from vae_lightning.distributions.component import Component
from vae_lightning.distributions.normal import DiagonalNormal, FullNormal, full_precision
from vae_lightning.networks.conditional import UNCONDITIONAL, Condition
from vae_lightning.networks.dense import LatentDim

# Added to every standard deviation, because softplus can underflow and log std must be finite.
STD_FLOOR = 1e-6
MEAN_SAMPLES = 256  # samples that estimate the mean of a posterior without a closed-form mean
SharedStd = Annotated[bool, Option("use one std for all images", Boolean())]
LogVariance = Annotated[
    Sequence[float] | None,
    Option(
        "bounds of log std^2, which is then an output of the network; null: std is softplus of an"
        " output",
        AnyOf((List(2, Number()), Choice((None,)))),
    ),
]


def positive(raw: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Returns softplus(raw) + STD_FLOOR, which is linear for large values, where exp overflows."""
    return F.softplus(raw) + STD_FLOOR


def estimated_mean(
    sample: Callable[[Tensor], Tensor], like: Float[Tensor, "B inputs"], latent_dim: int
) -> Float[Tensor, "B L"]:
    """Returns the mean of MEAN_SAMPLES samples of B posteriors without a closed-form mean: (B, L).

    All images have the same fixed noise. Therefore the estimate does not depend on the other images
    of the batch, and a dimension that is independent of x has the same estimate for all x.

    Args:
        sample: maps noise (K, B, L) to samples (K, B, L).
        like: a tensor with the batch size, the type and the device of the samples.
        latent_dim: L.
    """
    generator = torch.Generator(like.device).manual_seed(0)
    noise = torch.randn(
        MEAN_SAMPLES, 1, latent_dim, generator=generator, device=like.device, dtype=like.dtype
    )
    return sample(noise.expand(-1, len(like), -1)).mean(0)


class PosteriorModule(Component):
    """Base class of posteriors.

    Attributes:
        latent_dim: L.
        has_marginals: whether the marginals of the posterior have a closed form.
    """

    network: nn.Module
    latent_dim: int
    has_marginals = True


class DiagonalNormalPosterior(PosteriorModule):
    """q(z|x) = N(mean(x), diag(std(x)^2)) with std = softplus(raw) + STD_FLOOR.

    Kingma & Welling 2014, https://arxiv.org/abs/1312.6114. With ``log_variance=[low, high]``, std
    is exp(raw / 2), where raw is clipped to [low, high]; Tomczak & Welling 2018,
    https://arxiv.org/abs/1705.07120, use [-6, 2]. If 0 is not between the bounds, their middle is
    added to raw before: raw starts near 0, and has no gradient where it is clipped.

    Args:
        network: called with the number of outputs; returns the encoder network.
        latent_dim: L.
        shared_std: whether std is one learned vector instead of a function of x, as in
            probabilistic PCA.
        log_variance: bounds of log std^2, or None.

    Raises ConfigError if the first bound is not below the second.
    """

    def __init__(
        self,
        network: Callable[[int], nn.Module],
        latent_dim: LatentDim,
        shared_std: SharedStd = False,
        log_variance: LogVariance = None,
    ) -> None:
        super().__init__()
        self.log_variance, self.raw_offset = None, 0.0
        if log_variance is not None:
            low, high = self.log_variance = tuple(log_variance)
            if not low < high:
                raise ConfigError(
                    f"posterior.log_variance={list(log_variance)}: the first bound must be below"
                    " the second"
                )
            self.raw_offset = 0.0 if low < 0 < high else (low + high) / 2
        self.latent_dim = latent_dim
        self.network = network(latent_dim if shared_std else 2 * latent_dim)
        self.raw_std = nn.Parameter(torch.zeros(latent_dim)) if shared_std else None

    def forward(
        self, x: Float[Tensor, "B C H W"], condition: Condition = UNCONDITIONAL
    ) -> DiagonalNormal:
        """Returns q(z|x) with mean and std (B, L) for images x (B, C, H, W)."""
        outputs = full_precision(condition.apply(self.network, x))
        if self.raw_std is None:
            mean, raw_std = outputs.chunk(2, dim=-1)
        else:
            mean, raw_std = outputs, self.raw_std.expand_as(outputs)
        if self.log_variance is None:
            return DiagonalNormal(mean, positive(raw_std))
        low, high = self.log_variance
        return DiagonalNormal(mean, (0.5 * (raw_std + self.raw_offset).clamp(low, high)).exp())


class FullNormalPosterior(PosteriorModule):
    """q(z|x) = N(mean(x), T(x) T(x)') with T lower triangular.

    The diagonal of T is softplus(raw) + STD_FLOOR. Kingma & Welling 2019, section 2.5.1,
    https://arxiv.org/abs/1906.02691. This family contains the true posterior of a linear-Gaussian
    model: Tipping & Bishop 1999, https://doi.org/10.1111/1467-9868.00196.

    Args:
        network: called with the number of outputs; returns the encoder network.
        latent_dim: L.
    """

    def __init__(self, network: Callable[[int], nn.Module], latent_dim: LatentDim) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.network = network(2 * latent_dim + latent_dim * (latent_dim - 1) // 2)

    def forward(
        self, x: Float[Tensor, "B C H W"], condition: Condition = UNCONDITIONAL
    ) -> FullNormal:
        """Returns q(z|x) with mean (B, L) and scale_tril (B, L, L) for images x (B, C, H, W)."""
        size = self.latent_dim
        outputs = full_precision(condition.apply(self.network, x))
        mean, raw_std, lower = outputs.split([size, size, outputs.shape[-1] - 2 * size], dim=-1)
        row, column = torch.tril_indices(size, size, -1, device=x.device)
        scale_tril = torch.diag_embed(positive(raw_std))
        return FullNormal(
            mean,
            scale_tril.index_put(
                (torch.arange(len(x), device=x.device)[:, None], row, column), lower
            ),
        )
