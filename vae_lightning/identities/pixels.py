"""6. and 7. Continuous Bernoulli, discretised logistic, bits per dimension.

Loaiza-Ganem & Cunningham 2019, https://arxiv.org/abs/1907.06845; Salimans et al. 2017, https://arxiv.org/abs/1701.05517.
Shapes: P points, one pixel an image.
"""

import math

import torch
from torch import Tensor, nn

from vae_lightning.distributions import (
    Bernoulli,
    ContinuousBernoulli,
    ContinuousBernoulliLikelihood,
    DiscretizedLogistic,
    bits_per_dim,
    log_continuous_bernoulli_normalizer,
)
from vae_lightning.identities.row import Row, at_most, worst
from vae_lightning.quadrature import gauss_legendre

MNIST_PIXELS = 784


def column(values: Tensor) -> Tensor:
    """Values (P,) as images of one pixel, (P, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)


def parameter(values: Tensor) -> Tensor:
    """Parameters (K,) of distributions of one pixel, (K, 1, 1, 1, 1), which broadcast against images."""
    return values.view(-1, 1, 1, 1, 1)


def continuous_bernoulli() -> list[Row]:
    """Its normaliser, mean and clip."""
    near = torch.tensor([-1e-2, -1e-3, 0.0, 1e-3, 1e-2], dtype=torch.float64)  # lambda - 1/2
    series = math.log(2) + 4 / 3 * near**2 + 104 / 45 * near**4
    half = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    value = log_continuous_bernoulli_normalizer(half)
    logits = torch.tensor([-40.0, -3.0, -0.1000001, -0.0999999, 0.0, 0.0999999, 0.1000001, 3.0, 40.0]).double()
    x, weights = gauss_legendre(0, 1)
    density = ContinuousBernoulli(parameter(logits).expand(-1, len(x), -1, -1, -1))
    probability = (-density.recon(column(x))).exp()  # (logits, P)
    return [
        worst("log C = log 2 + 4/3 d^2 + 104/45 d^4 + ..., |d| = |lambda - 1/2| <= 0.01",
              log_continuous_bernoulli_normalizer((near + 0.5).logit()), series),
        worst("log C = log 2 at exactly 1/2", value.detach(), math.log(2)),
        worst("its gradient there = 0", torch.autograd.grad(value, half)[0], 0.0),
        worst("C(lambda): the density integrates to 1, nine lambdas", probability @ weights, 1.0),
        worst("the mean = integral of x p(x)", ContinuousBernoulli(parameter(logits)).mean.flatten(),
              probability @ (weights * x)),
        clipped(),
    ]  # fmt: skip


def clipped(clip: float = 1e-3) -> Row:
    """At a black pixel the log density is bounded by its clip alone: log C(clip) + log(1 - clip)."""
    likelihood = ContinuousBernoulliLikelihood(lambda _: nn.Unflatten(-1, (1, 1, 1)), clip)
    recon = likelihood(torch.full((1, 1, 1), -1e9, dtype=torch.float64)).recon(column(torch.zeros(1).double()))
    normalizer = math.log(2 * math.atanh(1 - 2 * clip) / (1 - 2 * clip))
    return worst(f"black pixel, clip {clip:g}: the most that log p can be", -recon, normalizer + math.log(1 - clip))


def discretized_logistic() -> list[Row]:
    """Its 256 probabilities."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    location, scale = torch.meshgrid(
        torch.tensor([-1.0, 0.0, 0.31, 1.0], dtype=torch.float64),
        torch.tensor([0.001, 0.01, 0.3, 5.0], dtype=torch.float64),
        indexing="ij",
    )
    distribution = DiscretizedLogistic(parameter(location.flatten()), parameter(scale.flatten()))
    recon = distribution.recon(column(levels))  # (16, 256)
    probability = recon.neg().exp()
    entropy = (probability * recon).sum(-1) / math.log(2)
    return [
        worst("discretised logistic: 256 probabilities sum to 1, 16 kinds", probability.sum(-1), 1.0),
        worst("its mean = sum of x P(x)", distribution.mean.flatten(), probability @ levels),
        at_most("its entropy <= 8 bits", entropy.max(), 8.0, 1e-10),
    ]


def bits() -> list[Row]:
    """bits/dim = nats / (784 log 2): a fair coin a pixel is one bit, a uniform byte eight."""
    coin = Bernoulli(torch.zeros(1, 1, 1, 28, 28, dtype=torch.float64)).recon(torch.ones(1, 1, 28, 28).double())
    # a logistic that is wide against a level and narrow against the 256 of them: the density is flat at its centre
    scale = 0.05
    centre = DiscretizedLogistic(torch.full((1, 1, 1, 28, 28), 128 / 255).double(), torch.tensor(scale).double())
    recon = centre.recon(torch.full((1, 1, 28, 28), 128 / 255).double())
    flat = math.log2(255 * 4 * scale)  # the density of a logistic is 1/(4 scale) at its centre
    second_order = 1 / (255 * scale) ** 2
    return [
        worst("784 fair coins: nats / (784 log 2) = 1 bit/dim", bits_per_dim(coin, MNIST_PIXELS), 1.0),
        worst(
            "784 pixels at the centre of a logistic: log2(4 * 255 scale)",
            bits_per_dim(recon, MNIST_PIXELS),
            flat,
            second_order,
        ),
    ]
