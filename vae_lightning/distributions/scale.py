"""Scales of likelihoods: fixed, learned, per pixel, or optimal in closed form.

A scale is a module. It maps the decoder's outputs (..., P * C, H, W), P = ``outputs_per_pixel``, to
the location (..., C, H, W) and a scale that broadcasts with it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vae_lightning.checks.errors import ConfigError
from vae_lightning.distributed import summed_over_processes
from vae_lightning.distributions.pixels import DiscretizedLogistic, Gaussian, Laplace

LocationScale = Gaussian | Laplace | DiscretizedLogistic

# The smallest scale of a density that is not fixed. Without it, the density of pixels that are
# always black is unbounded.
SCALE_FLOOR = 0.01
# The smallest scale of a probability that is not fixed, which is bounded by 1 anyway. It is far
# below the distance 1/255 of two levels, so that nearly all of the mass can be on one level.
LEVEL_SCALE_FLOOR = 1e-4
# The weight of a new batch in the running mean of an optimal scale.
OPTIMAL_SCALE_RATE = 0.02
# The initial value of a learned scale before softplus: softplus(-1) = 0.31 is about the standard
# deviation of MNIST pixels.
INITIAL_RAW_SCALE = -1.0


class Scale(nn.Module):
    """Base class of scales."""

    outputs_per_pixel = 1

    def forward(
        self, outputs: Float[Tensor, "K B outputs H W"]
    ) -> tuple[Float[Tensor, "K B C H W"], Float[Tensor, "..."]]:
        """Returns location and scale for the decoder's outputs."""
        raise NotImplementedError

    def observe(self, distribution: LocationScale) -> "LocationScale | RecordsResiduals":
        """Returns the distribution; a subclass may add the recording of residuals in training."""
        return distribution


class FixedScale(Scale):
    """A fixed number."""

    value: Float[Tensor, ""]

    def __init__(self, value: float) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(float(value)))

    def forward(
        self, outputs: Float[Tensor, "K B outputs H W"]
    ) -> tuple[Float[Tensor, "K B C H W"], Float[Tensor, "..."]]:
        """Returns location and scale for the decoder's outputs."""
        return outputs, self.value


class LearnedScale(Scale):
    """softplus(raw) + floor, with one parameter raw for all pixels."""

    def __init__(self, floor: float) -> None:
        super().__init__()
        self.floor = floor
        self.raw = nn.Parameter(torch.tensor(INITIAL_RAW_SCALE))

    def forward(
        self, outputs: Float[Tensor, "K B outputs H W"]
    ) -> tuple[Float[Tensor, "K B C H W"], Float[Tensor, "..."]]:
        """Returns location and scale for the decoder's outputs."""
        return outputs, F.softplus(self.raw) + self.floor


class PerPixelScale(Scale):
    """softplus(raw) + floor, where raw is a second output of the decoder for each pixel."""

    outputs_per_pixel = 2

    def __init__(self, floor: float) -> None:
        super().__init__()
        self.floor = floor

    def forward(
        self, outputs: Float[Tensor, "K B outputs H W"]
    ) -> tuple[Float[Tensor, "K B C H W"], Float[Tensor, "..."]]:
        """Returns location and scale for the decoder's outputs."""
        location, raw = outputs.chunk(2, dim=-3)
        return location, F.softplus(raw) + self.floor


class OptimalScale(Scale):
    """The scale E[|residual|^e]^(1/e) of the residuals, which maximizes the bound.

    The expectation is a running mean over training batches. sigma-VAE: Rybkin et al. 2021,
    https://arxiv.org/abs/2006.13202. The posterior samples of an image have the weights that the
    loss gives them, d loss / d recon: 1/K in the ELBO, the normalized importance weights in the
    importance-weighted bound.

    Args:
        exponent: e; 2 for a normal and 1 for a Laplace distribution.
        floor: the smallest scale.
    """

    moment: Float[Tensor, ""]

    def __init__(self, exponent: int, floor: float) -> None:
        super().__init__()
        self.exponent, self.floor = exponent, floor
        self.register_buffer("moment", torch.tensor(0.3**exponent))

    def forward(
        self, outputs: Float[Tensor, "K B outputs H W"]
    ) -> tuple[Float[Tensor, "K B C H W"], Float[Tensor, "..."]]:
        """Returns location and scale for the decoder's outputs."""
        # pow returns a new tensor, because ``record`` changes the moment in place
        return outputs, self.moment.pow(1 / self.exponent).clamp(min=self.floor)

    def observe(self, distribution: LocationScale) -> "LocationScale | RecordsResiduals":
        """Returns the distribution; in training, it also records its residuals in this scale."""
        return RecordsResiduals(distribution, self) if self.training else distribution

    def record(self, moments: Float[Tensor, "K B"], weights: Float[Tensor, "K B"]) -> None:
        """Updates the running mean of |residual|^exponent.

        Args:
            moments: its mean over the pixels of an image.
            weights: those of the posterior samples; a common factor has no effect.
        """
        sums = torch.stack([(weights * moments).sum(), weights.sum()])
        total, weight = summed_over_processes(sums)
        self.moment.lerp_((total / weight).to(self.moment.dtype), OPTIMAL_SCALE_RATE)


@dataclass(frozen=True)
class RecordsResiduals:
    """A distribution whose scale records the residuals when the gradient of recon is computed."""

    distribution: LocationScale
    scale: OptimalScale

    @property
    def mean(self) -> Float[Tensor, "K B C H W"]:
        """The mean of the distribution, (K, B, C, H, W)."""
        return self.distribution.mean

    @property
    def log_normalizer(self) -> float:
        """The log normalizer of the distribution."""
        return self.distribution.log_normalizer

    def sample(self, generator: torch.Generator) -> Float[Tensor, "K B C H W"]:
        """Returns a draw of the pixels: (K, B, C, H, W)."""
        return self.distribution.sample(generator)

    def recon(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "K B"]:
        """Returns recon of the distribution for x (B, C, H, W): (K, B)."""
        recon = self.distribution.recon(x)
        if recon.requires_grad:
            residual = (x - self.distribution.mean.detach()).abs().pow(self.scale.exponent)
            moments = residual.mean((-3, -2, -1))
            recon.register_hook(lambda gradient: self.scale.record(moments, gradient))
        return recon


def make_scale(
    value: float | str, kinds: tuple[str, ...], key: str, exponent: int, floor: float
) -> Scale:
    """Returns the scale for the value of an option; if it is not fixed, it is at least ``floor``.

    Raises ConfigError if the value is neither a finite number > 0 nor one of ``kinds``.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
        return FixedScale(value)
    if value not in kinds:
        allowed = f"must be a finite number > 0 or one of {', '.join(kinds)}"
        raise ConfigError(f"likelihood.{key}={value}: {allowed}")
    makers: dict[str, Callable[[], Scale]] = {
        "learned": lambda: LearnedScale(floor),
        "per_pixel": lambda: PerPixelScale(floor),
        "optimal": lambda: OptimalScale(exponent, floor),
    }
    return makers[value]()
