"""Densities and probabilities of images: what a likelihood's forward returns.

Each has ``mean`` (K, B, C, H, W) and ``recon(x)`` (K, B): the negative log density in nats, summed over channels and
pixels, less ``log_normalizer``, the constant that the loss leaves out (0 for all but the squared error).
Shapes: K samples, B images, C H W of an image.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def per_image(pixels: Tensor) -> Tensor:
    """Sum over an image: (K, B, C, H, W) -> (K, B)."""
    return pixels.sum((2, 3, 4))


def bits_per_dim(nats: Tensor | float, pixels: int) -> Tensor | float:
    """A negative log probability of an image in bits per pixel: nats / (D log 2)."""
    return nats / (pixels * math.log(2))


def cross_entropy(logits: Tensor, x: Tensor) -> Tensor:
    """softplus(logits) - x logits of every pixel, for logits (K, B, C, H, W) and x (B, C, H, W) in [0, 1]."""
    return F.binary_cross_entropy_with_logits(logits, x.to(logits.dtype).expand_as(logits), reduction="none")


@dataclass(frozen=True)
class SquaredError:
    """N(mean, 1/2 I): the density whose negative logarithm is the summed squared error plus (D/2) log pi."""

    mean: Tensor

    @property
    def log_normalizer(self) -> float:
        """(D/2) log pi nats, D = C * H * W: 448.7341 for 784 pixels."""
        return self.mean.shape[-3:].numel() / 2 * math.log(math.pi)

    def recon(self, x: Tensor) -> Tensor:
        """sum_d (x_d - mean_d)^2 for x (B, C, H, W): (K, B)."""
        return per_image(F.mse_loss(*torch.broadcast_tensors(self.mean, x), reduction="none"))


@dataclass(frozen=True)
class Gaussian:
    """Independent N(mean_d, std_d^2), normalised; ``std`` broadcasts against ``mean``."""

    mean: Tensor
    std: Tensor
    log_normalizer = 0.0

    def recon(self, x: Tensor) -> Tensor:
        """sum_d [(x_d - mean_d)^2 / (2 std_d^2) + log std_d + 1/2 log 2 pi] for x (B, C, H, W): (K, B)."""
        return per_image(0.5 * ((x - self.mean) / self.std).square() + self.std.log() + 0.5 * math.log(2 * math.pi))


@dataclass(frozen=True)
class Laplace:
    """Independent Laplace(mean_d, scale_d): exp(-|x_d - mean_d| / scale_d) / (2 scale_d)."""

    mean: Tensor
    scale: Tensor
    log_normalizer = 0.0

    def recon(self, x: Tensor) -> Tensor:
        """sum_d [|x_d - mean_d| / scale_d + log(2 scale_d)] for x (B, C, H, W): (K, B)."""
        return per_image((x - self.mean).abs() / self.scale + self.scale.log() + math.log(2))


@dataclass(frozen=True)
class Bernoulli:
    """Independent Bernoulli pixels with the given logits (K, B, C, H, W)."""

    logits: Tensor
    log_normalizer = 0.0

    @property
    def mean(self) -> Tensor:
        """p(x_d = 1 | z) = sigmoid(logit_d): (K, B, C, H, W)."""
        return self.logits.sigmoid()

    def recon(self, x: Tensor) -> Tensor:
        """Cross-entropy sum_d [softplus(logit_d) - x_d logit_d] for x (B, C, H, W) in [0, 1]: (K, B).

        For x in {0, 1} it is -log p(x|z); for grey x it is the expected -log p over pixels binarised with
        probability x, a cross-entropy and not a likelihood of x.
        """
        return per_image(cross_entropy(self.logits, x))


# Below this |logit| the ratios of hyperbolic functions are taken from their Taylor series: exact to 1e-12 there.
NEAR_HALF = 0.1


def log_continuous_bernoulli_normalizer(logits: Tensor) -> Tensor:
    """log C(lambda) for lambda = sigmoid(logits): C = 2 artanh(1 - 2 lambda) / (1 - 2 lambda) = a / tanh(a / 2).

    Even in the logit a and smooth: near lambda = 1/2 it is log 2 + a^2/12 - 7 a^4/1440 + 31 a^6/90720.
    """
    near = logits.abs() < NEAR_HALF
    a = torch.where(near, 1.0, logits).abs()  # where the other branch is taken, a harmless number: no NaN gradient
    exact = a.log() - torch.log(torch.tanh(a / 2))
    square = torch.where(near, logits, 0.0).square()
    series = math.log(2) + square / 12 - 7 * square**2 / 1440 + 31 * square**3 / 90720
    return torch.where(near, series, exact)


@dataclass(frozen=True)
class ContinuousBernoulli:
    """Pixels in [0, 1] with density C(lambda) lambda^x (1 - lambda)^(1 - x), lambda = sigmoid(logits).

    Loaiza-Ganem & Cunningham 2019, https://arxiv.org/abs/1907.06845.
    """

    logits: Tensor
    log_normalizer = 0.0

    @property
    def mean(self) -> Tensor:
        """E[x_d] = lambda / (2 lambda - 1) + 1 / (2 artanh(1 - 2 lambda)) = 1/2 + 1/(2 tanh(a/2)) - 1/a."""
        near = self.logits.abs() < NEAR_HALF
        a = torch.where(near, 1.0, self.logits)
        series = self.logits / 12 - self.logits**3 / 720 + self.logits**5 / 30240
        return 0.5 + torch.where(near, series, 0.5 / torch.tanh(a / 2) - 1 / a)

    def recon(self, x: Tensor) -> Tensor:
        """sum_d [softplus(logit_d) - x_d logit_d - log C(lambda_d)] for x (B, C, H, W): (K, B); may be negative."""
        return per_image(cross_entropy(self.logits, x) - log_continuous_bernoulli_normalizer(self.logits))


@dataclass(frozen=True)
class DiscretizedLogistic:
    """Pixels k/255, k = 0 ... 255: the mass of a logistic(location, scale) within half a level, tails at the ends.

    Salimans et al. 2017, https://arxiv.org/abs/1701.05517.
    """

    location: Tensor
    scale: Tensor
    log_normalizer = 0.0

    @property
    def mean(self) -> Tensor:
        """E[x_d] = 1/255 sum_{k < 255} P(x_d > k/255): (K, B, C, H, W)."""
        location, scale = self.location.unsqueeze(-1), self.scale.unsqueeze(-1)
        levels = (torch.arange(255, dtype=location.dtype, device=location.device) + 0.5) / 255
        # in 15 parts: 17 times the memory of the image instead of 255, and not 255 steps of a traced decoder
        parts = [torch.sigmoid((location - part) / scale).sum(-1) for part in levels.split(17)]
        return torch.stack(parts).sum(0) / 255

    def recon(self, x: Tensor) -> Tensor:
        """-sum_d log P(x_d) for x (B, C, H, W) on the levels k/255: (K, B).

        With F the logistic function and a < b the ends of the level, standardised,
        F(b) - F(a) = F(b) F(-a) (1 - exp(a - b)), which loses no digits in the tails.
        """
        below = (x - 0.5 / 255 - self.location) / self.scale
        above = (x + 0.5 / 255 - self.location) / self.scale
        lowest, highest = x < 0.5 / 255, x > 254.5 / 255
        log_mass = torch.where(highest, 0.0, F.logsigmoid(above)) + torch.where(lowest, 0.0, F.logsigmoid(-below))
        width = torch.log(-torch.expm1(-1 / (255 * self.scale)))
        return -per_image(log_mass + torch.where(lowest | highest, 0.0, width))
