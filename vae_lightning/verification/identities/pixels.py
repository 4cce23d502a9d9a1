"""6. and 7. Continuous Bernoulli, discretized logistic, and bits per dimension.

Loaiza-Ganem & Cunningham 2019, https://arxiv.org/abs/1907.06845; Salimans et al. 2017,
https://arxiv.org/abs/1701.05517.
Shapes: P points, K distributions; each image has one pixel.
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
from vae_lightning.verification.identities.row import Row, equality, inequality
from vae_lightning.verification.quadrature import gauss_legendre

MNIST_PIXELS = 784


def column(values: Tensor) -> Tensor:
    """Returns values (P,) as images of one pixel, (P, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)


def parameter(values: Tensor) -> Tensor:
    """Returns parameters (K,) of one-pixel distributions as (K, 1, 1, 1, 1), for broadcasting."""
    return values.view(-1, 1, 1, 1, 1)


def continuous_bernoulli() -> list[Row]:
    """Checks the normalizer, the mean and the clip of the continuous Bernoulli."""
    near = torch.tensor([-1e-2, -1e-3, 0.0, 1e-3, 1e-2], dtype=torch.float64)  # lambda - 1/2
    series = math.log(2) + 4 / 3 * near**2 + 104 / 45 * near**4
    half = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    value = log_continuous_bernoulli_normalizer(half)
    logits = torch.tensor(
        [-40.0, -3.0, -0.1000001, -0.0999999, 0.0, 0.0999999, 0.1000001, 3.0, 40.0]
    ).double()
    x, weights = gauss_legendre(0, 1)
    density = ContinuousBernoulli(parameter(logits).expand(-1, len(x), -1, -1, -1))
    probability = (-density.recon(column(x))).exp()  # (K, P)
    return [
        equality(
            "log C = log 2 + 4/3 d^2 + 104/45 d^4 + ..., |d| = |lambda - 1/2| <= 0.01",
            log_continuous_bernoulli_normalizer((near + 0.5).logit()),
            series,
        ),
        equality("log C = log 2 at exactly 1/2", value.detach(), math.log(2)),
        equality("gradient of log C at 1/2 = 0", torch.autograd.grad(value, half)[0], 0.0),
        equality("the density integrates to 1, 9 values of lambda", probability @ weights, 1.0),
        equality(
            "mean = integral of x p(x)",
            ContinuousBernoulli(parameter(logits)).mean.flatten(),
            probability @ (weights * x),
        ),
        clipped(),
    ]


def clipped(clip: float = 1e-3) -> Row:
    """Checks the upper bound log C(clip) + log(1 - clip) of the log density of a black pixel."""
    likelihood = ContinuousBernoulliLikelihood(lambda _: nn.Unflatten(-1, (1, 1, 1)), clip)
    recon = likelihood(torch.full((1, 1, 1), -1e9, dtype=torch.float64)).recon(
        column(torch.zeros(1).double())
    )
    normalizer = math.log(2 * math.atanh(1 - 2 * clip) / (1 - 2 * clip))
    return equality(
        f"largest log p of a black pixel = log C(clip) + log(1 - clip), clip = {clip:g}",
        -recon,
        normalizer + math.log(1 - clip),
    )


def discretized_logistic() -> list[Row]:
    """Checks the 256 probabilities of the discretized logistic, their mean and their entropy."""
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
        equality(
            "the 256 probabilities sum to 1, 16 pairs of location and scale",
            probability.sum(-1),
            1.0,
        ),
        equality("mean = sum of x P(x)", distribution.mean.flatten(), probability @ levels),
        inequality("entropy <= 8 bits", entropy.max(), 8.0, 1e-10),
    ]


def bits() -> list[Row]:
    """Checks bits/dim = nats / (784 log 2).

    A pixel that is a fair coin has 1 bit/dim, a pixel that is a uniform byte has 8.
    """
    coin = Bernoulli(torch.zeros(1, 1, 1, 28, 28, dtype=torch.float64)).recon(
        torch.ones(1, 1, 28, 28).double()
    )
    # This scale is large compared with one of the 256 levels and small compared with their range,
    # so the density is nearly constant over the center level.
    scale = 0.05
    center = DiscretizedLogistic(
        torch.full((1, 1, 1, 28, 28), 128 / 255).double(), torch.tensor(scale).double()
    )
    recon = center.recon(torch.full((1, 1, 28, 28), 128 / 255).double())
    flat = math.log2(255 * 4 * scale)  # a logistic density is 1/(4 scale) at its center
    second_order = 1 / (255 * scale) ** 2
    return [
        equality(
            "784 fair coins: nats / (784 log 2) = 1 bit/dim", bits_per_dim(coin, MNIST_PIXELS), 1.0
        ),
        equality(
            "784 discretized logistics at their center: log2(4 * 255 * scale) bits/dim",
            bits_per_dim(recon, MNIST_PIXELS),
            flat,
            second_order,
        ),
    ]
