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
from vae_lightning.distributions.pixels import DiscretizedLogistic, Gaussian, Laplace

LocationScale = Gaussian | Laplace | DiscretizedLogistic

# The smallest learned scale. Without it, the density of pixels that are always black is unbounded.
SCALE_FLOOR = 0.01
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
    """softplus(raw) + SCALE_FLOOR, with one parameter raw for all pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.tensor(INITIAL_RAW_SCALE))

    def forward(
        self, outputs: Float[Tensor, "K B outputs H W"]
    ) -> tuple[Float[Tensor, "K B C H W"], Float[Tensor, "..."]]:
        """Returns location and scale for the decoder's outputs."""
        return outputs, F.softplus(self.raw) + SCALE_FLOOR


class PerPixelScale(Scale):
    """softplus(raw) + SCALE_FLOOR, where raw is a second output of the decoder for each pixel."""

    outputs_per_pixel = 2

    def forward(
        self, outputs: Float[Tensor, "K B outputs H W"]
    ) -> tuple[Float[Tensor, "K B C H W"], Float[Tensor, "..."]]:
        """Returns location and scale for the decoder's outputs."""
        location, raw = outputs.chunk(2, dim=-3)
        return location, F.softplus(raw) + SCALE_FLOOR


class OptimalScale(Scale):
    """The maximum-likelihood scale E[|residual|^e]^(1/e) of the residuals.

    The expectation is a running mean over training batches. sigma-VAE: Rybkin et al. 2021,
    https://arxiv.org/abs/2006.13202.

    Args:
        exponent: e; 2 for a normal and 1 for a Laplace distribution.
    """

    moment: Float[Tensor, ""]

    def __init__(self, exponent: int) -> None:
        super().__init__()
        self.exponent = exponent
        self.register_buffer("moment", torch.tensor(0.3**exponent))

    def forward(
        self, outputs: Float[Tensor, "K B outputs H W"]
    ) -> tuple[Float[Tensor, "K B C H W"], Float[Tensor, "..."]]:
        """Returns location and scale for the decoder's outputs."""
        # pow returns a new tensor, because ``record`` changes the moment in place
        return outputs, self.moment.pow(1 / self.exponent).clamp(min=SCALE_FLOOR)

    def observe(self, distribution: LocationScale) -> "LocationScale | RecordsResiduals":
        """Returns the distribution; in training, it also records its residuals in this scale."""
        return RecordsResiduals(distribution, self.record) if self.training else distribution

    def record(self, residual: Float[Tensor, "K B C H W"]) -> None:
        """Updates the running mean of |residual|^exponent with the residuals of a batch."""
        self.moment.lerp_(residual.abs().pow(self.exponent).mean(), OPTIMAL_SCALE_RATE)


@dataclass(frozen=True)
class RecordsResiduals:
    """A distribution that records the residuals of the images for which recon is computed."""

    distribution: LocationScale
    record: Callable[[Float[Tensor, "K B C H W"]], None]

    @property
    def mean(self) -> Float[Tensor, "K B C H W"]:
        """The mean of the distribution, (K, B, C, H, W)."""
        return self.distribution.mean

    @property
    def log_normalizer(self) -> float:
        """The log normalizer of the distribution."""
        return self.distribution.log_normalizer

    def recon(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "K B"]:
        """Returns recon of the distribution for x (B, C, H, W), (K, B), and records residuals."""
        self.record(x - self.distribution.mean.detach())
        return self.distribution.recon(x)


def make_scale(value: float | str, kinds: tuple[str, ...], key: str, exponent: int) -> Scale:
    """Returns the scale for the value of an option.

    Raises ConfigError if the value is neither a finite number > 0 nor one of ``kinds``.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
        return FixedScale(value)
    if value not in kinds:
        allowed = f"must be a finite number > 0 or one of {', '.join(kinds)}"
        raise ConfigError(f"likelihood.{key}={value}: {allowed}")
    makers: dict[str, Callable[[], Scale]] = {
        "learned": LearnedScale,
        "per_pixel": PerPixelScale,
        "optimal": lambda: OptimalScale(exponent),
    }
    return makers[value]()
