"""Distributions of images, as returned by the forward of a likelihood.

Each has ``mean`` (K, B, C, H, W), ``recon(x)`` (K, B), ``sample(generator)`` (K, B, C, H, W) and
``log_normalizer``. The negative log density in nats, summed over channels and pixels, is recon(x) +
log_normalizer. The loss omits the constant ``log_normalizer``, which is 0 except for the squared
error.
Shapes: K samples, B images, C H W of an image, D = C * H * W pixels.
"""

import math
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Nats = TypeVar("Nats", Tensor, float)


def per_image(pixels: Float[Tensor, "*shape C H W"]) -> Float[Tensor, "*shape"]:
    """Sums over channels and pixels: (K, B, C, H, W) -> (K, B)."""
    return pixels.sum((2, 3, 4))


def bits_per_dim(nats: Nats, pixels: int) -> Nats:
    """Converts a negative log probability of an image to bits per dimension: nats / (D log 2)."""
    return nats / (pixels * math.log(2))


def normal_like(x: Float[Tensor, "*shape"], generator: torch.Generator) -> Float[Tensor, "*shape"]:
    """Returns draws from N(0, 1) of the shape, type and device of x."""
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)


def uniform_like(x: Float[Tensor, "*shape"], generator: torch.Generator) -> Float[Tensor, "*shape"]:
    """Returns uniform draws from (0, 1) of the shape, type and device of x, never 0 or 1."""
    u = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    return u.clamp(torch.finfo(x.dtype).tiny, 1 - torch.finfo(x.dtype).eps)


def cross_entropy(
    logits: Float[Tensor, "K B C H W"], x: Float[Tensor, "B C H W"]
) -> Float[Tensor, "K B C H W"]:
    """Returns softplus(logits) - x logits per pixel: (K, B, C, H, W).

    ``logits`` are (K, B, C, H, W) and x (B, C, H, W) is in [0, 1].
    """
    return F.binary_cross_entropy_with_logits(
        logits, x.to(logits.dtype).expand_as(logits), reduction="none"
    )


@dataclass(frozen=True)
class SquaredError:
    """N(mean, 1/2 I); the negative log density is the summed squared error plus (D/2) log pi."""

    mean: Float[Tensor, "K B C H W"]

    @property
    def log_normalizer(self) -> float:
        """(D/2) log pi nats: 448.7341 for 784 pixels."""
        return self.mean.shape[-3:].numel() / 2 * math.log(math.pi)

    def recon(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "K B"]:
        """Returns sum_d (x_d - mean_d)^2 for images x (B, C, H, W): (K, B)."""
        return per_image(F.mse_loss(*torch.broadcast_tensors(self.mean, x), reduction="none"))

    def sample(self, generator: torch.Generator) -> Float[Tensor, "K B C H W"]:
        """Returns a draw of the pixels: (K, B, C, H, W)."""
        return self.mean + math.sqrt(0.5) * normal_like(self.mean, generator)


@dataclass(frozen=True)
class Gaussian:
    """Independent N(mean_d, std_d^2), normalized; ``std`` broadcasts against ``mean``."""

    mean: Float[Tensor, "K B C H W"]
    std: Float[Tensor, "..."]
    log_normalizer = 0.0

    def recon(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "K B"]:
        """Returns the negative log density of images x (B, C, H, W) in nats: (K, B).

        sum_d [(x_d - mean_d)^2 / (2 std_d^2) + log std_d + 1/2 log 2 pi].
        """
        return per_image(
            0.5 * ((x - self.mean) / self.std).square()
            + self.std.log()
            + 0.5 * math.log(2 * math.pi)
        )

    def sample(self, generator: torch.Generator) -> Float[Tensor, "K B C H W"]:
        """Returns a draw of the pixels: (K, B, C, H, W)."""
        return self.mean + self.std * normal_like(self.mean, generator)


@dataclass(frozen=True)
class Laplace:
    """Independent Laplace(mean_d, scale_d): exp(-|x_d - mean_d| / scale_d) / (2 scale_d)."""

    mean: Float[Tensor, "K B C H W"]
    scale: Float[Tensor, "..."]
    log_normalizer = 0.0

    def recon(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "K B"]:
        """Returns the negative log density of images x (B, C, H, W) in nats: (K, B).

        sum_d [|x_d - mean_d| / scale_d + log(2 scale_d)].
        """
        return per_image((x - self.mean).abs() / self.scale + self.scale.log() + math.log(2))

    def sample(self, generator: torch.Generator) -> Float[Tensor, "K B C H W"]:
        """Returns a draw of the pixels: (K, B, C, H, W)."""
        u = uniform_like(self.mean, generator) - 0.5
        return self.mean - self.scale * u.sign() * torch.log1p(-2 * u.abs())


@dataclass(frozen=True)
class Bernoulli:
    """Independent Bernoulli pixels with the given logits (K, B, C, H, W)."""

    logits: Float[Tensor, "K B C H W"]
    log_normalizer = 0.0

    @property
    def mean(self) -> Float[Tensor, "K B C H W"]:
        """The probabilities p(x_d = 1 | z) = sigmoid(logit_d): (K, B, C, H, W)."""
        return self.logits.sigmoid()

    def recon(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "K B"]:
        """Returns the cross-entropy of images x (B, C, H, W) in [0, 1]: (K, B).

            sum_d [softplus(logit_d) - x_d logit_d]

        For x in {0, 1} it is -log p(x|z). For gray x it is the expectation of -log p over pixels
        that are binarized at random with probability x: a cross-entropy, not a likelihood of x.
        """
        return per_image(cross_entropy(self.logits, x))

    def sample(self, generator: torch.Generator) -> Float[Tensor, "K B C H W"]:
        """Returns a draw of the pixels, 0 or 1: (K, B, C, H, W)."""
        return torch.bernoulli(self.mean, generator=generator)


# For smaller |logit|, a Taylor series replaces ratios of hyperbolic functions. Its error is 1e-12.
NEAR_HALF = 0.1


def log_continuous_bernoulli_normalizer(logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Returns log C(lambda) for lambda = sigmoid(a), a = logits.

        C(lambda) = 2 artanh(1 - 2 lambda) / (1 - 2 lambda) = a / tanh(a / 2)

    It is a smooth, even function of a. Near lambda = 1/2 the series
    log 2 + a^2/12 - 7 a^4/1440 + 31 a^6/90720 is used.
    """
    near = logits.abs() < NEAR_HALF
    # 1 replaces the values that the other branch computes, because 0 would give a NaN gradient
    a = torch.where(near, 1.0, logits).abs()
    exact = a.log() - torch.log(torch.tanh(a / 2))
    square = torch.where(near, logits, 0.0).square()
    series = math.log(2) + square / 12 - 7 * square**2 / 1440 + 31 * square**3 / 90720
    return torch.where(near, series, exact)


@dataclass(frozen=True)
class ContinuousBernoulli:
    """Independent pixels in [0, 1] with density C(lambda) lambda^x (1 - lambda)^(1 - x).

    lambda = sigmoid(logits). Loaiza-Ganem & Cunningham 2019, https://arxiv.org/abs/1907.06845.
    """

    logits: Float[Tensor, "K B C H W"]
    log_normalizer = 0.0

    @property
    def mean(self) -> Float[Tensor, "K B C H W"]:
        """E[x_d] = lambda / (2 lambda - 1) + 1 / (2 artanh(1 - 2 lambda)).

        With a = logit(lambda) this is 1/2 + 1/(2 tanh(a/2)) - 1/a.
        """
        near = self.logits.abs() < NEAR_HALF
        a = torch.where(near, 1.0, self.logits)
        series = self.logits / 12 - self.logits**3 / 720 + self.logits**5 / 30240
        return 0.5 + torch.where(near, series, 0.5 / torch.tanh(a / 2) - 1 / a)

    def recon(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "K B"]:
        """Returns the negative log density of images x (B, C, H, W) in nats, (K, B).

        sum_d [softplus(logit_d) - x_d logit_d - log C(lambda_d)], which may be negative.
        """
        return per_image(
            cross_entropy(self.logits, x) - log_continuous_bernoulli_normalizer(self.logits)
        )

    def sample(self, generator: torch.Generator) -> Float[Tensor, "K B C H W"]:
        """Returns a draw of the pixels: (K, B, C, H, W).

        It inverts the distribution function: x = log(1 + u (e^a - 1)) / a for uniform u, with the
        logit a; x = u for a = 0.
        """
        u = uniform_like(self.logits, generator)
        # the distribution for -a is that of 1 - x for a, and e^a cannot overflow for a < 0
        a = -self.logits.abs()
        near = a > -1e-3
        x = torch.where(near, u, torch.log1p(u * torch.expm1(a)) / torch.where(near, 1.0, a))
        return torch.where(self.logits > 0, 1 - x, x)


@dataclass(frozen=True)
class DiscretizedLogistic:
    """Probabilities of the levels x = k/255, k = 0, ..., 255.

    P(x) is the mass of a logistic distribution (location, scale) within half a level of x; the
    lowest and the highest level also have the tails. Salimans et al. 2017,
    https://arxiv.org/abs/1701.05517.
    """

    location: Float[Tensor, "K B C H W"]
    scale: Float[Tensor, "..."]
    log_normalizer = 0.0

    @property
    def mean(self) -> Float[Tensor, "K B C H W"]:
        """The means E[x_d] = 1/255 sum_{k < 255} P(x_d > k/255): (K, B, C, H, W)."""
        location, scale = self.location.unsqueeze(-1), self.scale.unsqueeze(-1)
        levels = (torch.arange(255, dtype=location.dtype, device=location.device) + 0.5) / 255
        # 15 chunks of 17 levels need 17 instead of 255 times the memory of the images, and a traced
        # decoder has 15 instead of 255 steps
        parts = [torch.sigmoid((location - part) / scale).sum(-1) for part in levels.split(17)]
        return torch.stack(parts).sum(0) / 255

    def recon(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "K B"]:
        """Returns -sum_d log P(x_d) in nats for images x (B, C, H, W) of levels k/255: (K, B).

        With the logistic function F and the standardized ends a < b of a level,
        F(b) - F(a) = F(b) F(-a) (1 - exp(a - b)), which is accurate in the tails.
        """
        below = (x - 0.5 / 255 - self.location) / self.scale
        above = (x + 0.5 / 255 - self.location) / self.scale
        lowest, highest = x < 0.5 / 255, x > 254.5 / 255
        log_mass = torch.where(highest, 0.0, F.logsigmoid(above)) + torch.where(
            lowest, 0.0, F.logsigmoid(-below)
        )
        width = torch.log(-torch.expm1(-1 / (255 * self.scale)))
        return -per_image(log_mass + torch.where(lowest | highest, 0.0, width))

    def sample(self, generator: torch.Generator) -> Float[Tensor, "K B C H W"]:
        """Returns a draw of the pixels, levels k/255: (K, B, C, H, W)."""
        u = uniform_like(self.location, generator)
        x = self.location + self.scale * u.logit()
        return (255 * x).round().clamp(0, 255) / 255
