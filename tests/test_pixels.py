"""Densities of pixels in float64.

The references are torch.distributions, integrals and sums of one, series and gradients.
"""

import math

import pytest
import torch
from torch import Tensor, distributions

from vae_lightning.distributions import (
    Bernoulli,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    Laplace,
    SquaredError,
    log_continuous_bernoulli_normalizer,
)
from vae_lightning.distributions.pixels import NEAR_HALF

GENERATOR = torch.Generator().manual_seed(0)
LOCATION = (
    torch.rand(2, 3, 1, 4, 4, dtype=torch.float64, generator=GENERATOR) * 2 - 0.5
)  # (K, B, C, H, W)
SCALE = torch.rand(2, 3, 1, 4, 4, dtype=torch.float64, generator=GENERATOR) + 0.05
X = torch.rand(3, 1, 4, 4, dtype=torch.float64, generator=GENERATOR)
LEVELS = torch.arange(256, dtype=torch.float64) / 255


def density(pixels: object, x: Tensor) -> Tensor:
    """p(x) of a distribution of one pixel at the points x (N,)."""
    wide = {name: value.expand(1, len(x), 1, 1, 1) for name, value in vars(pixels).items()}
    recon = type(pixels)(**wide).recon(x[:, None, None, None])
    return torch.exp(-recon - pixels.log_normalizer)[0]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Gaussian(LOCATION, SCALE), distributions.Normal(LOCATION, SCALE)),
        (
            Gaussian(LOCATION, SCALE[0, 0, 0, 0, 0]),
            distributions.Normal(LOCATION, SCALE[0, 0, 0, 0, 0]),
        ),
        (Laplace(LOCATION, SCALE), distributions.Laplace(LOCATION, SCALE)),
        # torch takes a series for lambda within 0.499 to 0.501, where these logits are not
        (
            ContinuousBernoulli(LOCATION * 9 + 0.03),
            distributions.ContinuousBernoulli(logits=LOCATION * 9 + 0.03),
        ),
    ],
    ids=["gaussian", "gaussian of one std", "laplace", "continuous bernoulli"],
)
def test_recon_and_mean_are_torch_distributions(
    ours: object, theirs: distributions.Distribution
) -> None:
    recon = ours.recon(X)
    assert recon.shape == (2, 3)
    assert ours.log_normalizer == 0
    torch.testing.assert_close(recon, -theirs.log_prob(X).sum((2, 3, 4)), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours.mean, theirs.mean.expand_as(LOCATION), rtol=1e-10, atol=1e-10)


def pixel(value: float) -> Tensor:
    return torch.full((1, 1, 1, 1, 1), value, dtype=torch.float64)


@pytest.mark.parametrize(
    ("pixels", "low", "high"),
    [
        (SquaredError(pixel(0.3)), -9.7, 10.3),
        (Gaussian(pixel(0.3), pixel(0.05)), -9.7, 10.3),
        (
            Laplace(pixel(0.3), pixel(0.05)),
            -9.7,
            10.3,
        ),  # symmetric, so that the kink is a point of the grid
        *[
            (ContinuousBernoulli(pixel(logit)), 0.0, 1.0)
            for logit in (-9.2, -0.1, 0.0, 0.03, 0.1, 2.0, 9.2)
        ],
    ],
)
def test_densities_integrate_to_one_and_have_the_mean(
    pixels: object, low: float, high: float
) -> None:
    x = torch.linspace(low, high, 400_001, dtype=torch.float64)
    assert float(torch.trapezoid(density(pixels, x), x)) == pytest.approx(1, abs=1e-6)
    assert float(torch.trapezoid(x * density(pixels, x), x)) == pytest.approx(
        float(pixels.mean), abs=1e-6
    )


@pytest.mark.parametrize("scale", [1e-5, 0.01, 0.3, 1.0, 1e4])
@pytest.mark.parametrize("location", [-6.0, -0.01, 0.0, 0.31, 0.5, 1.0, 1.7, 6.0])
def test_discretized_logistic_sums_to_one_and_has_the_mean(location: float, scale: float) -> None:
    pixels = DiscretizedLogistic(pixel(location), pixel(scale))
    for levels in (LEVELS, torch.arange(256).float() / 255):  # as the data module has them
        mass = density(pixels, levels)
        assert float(mass.sum()) == pytest.approx(
            1, abs=1e-12 if levels is LEVELS else 1e-3 / (scale + 1e-3)
        )
    assert float((LEVELS * density(pixels, LEVELS)).sum()) == pytest.approx(
        float(pixels.mean), abs=1e-10
    )


def test_discretized_logistic_is_a_difference_of_logistic_functions() -> None:
    pixels = DiscretizedLogistic(LOCATION, SCALE)
    x = (X * 255).round() / 255
    x[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    below, above = (x - 0.5 / 255 - LOCATION) / SCALE, (x + 0.5 / 255 - LOCATION) / SCALE
    lower, upper = (
        torch.where(x == 0, 0.0, below.sigmoid()),
        torch.where(x == 1, 1.0, above.sigmoid()),
    )
    torch.testing.assert_close(
        pixels.recon(x), -(upper - lower).log().sum((2, 3, 4)), rtol=1e-10, atol=1e-10
    )


def test_log_continuous_bernoulli_normalizer_at_and_near_one_half() -> None:
    """log C = log 2 + (4/3) d^2 + (104/45) d^4 + O(d^6), d = lambda - 1/2.

    The gradient with respect to the logit is 0 at lambda = 1/2.
    """
    d = torch.tensor([0.0, 1e-8, -1e-5, 1e-4, 1e-3, -1e-2, 0.02], dtype=torch.float64)
    logits = torch.logit(0.5 + d).requires_grad_()
    value = log_continuous_bernoulli_normalizer(logits)
    assert float(value[0].detach()) == math.log(2)
    value.sum().backward()
    assert float(logits.grad[0]) == 0
    error = (value - (math.log(2) + 4 / 3 * d**2 + 104 / 45 * d**4)).abs()
    assert (error <= 6 * d**6 + 1e-15).all()
    slope = (8 / 3 * d + 416 / 45 * d**3) * (
        0.25 - d**2
    )  # d lambda / d logit = lambda (1 - lambda)
    assert ((logits.grad - slope).abs() <= 10 * d.abs() ** 5 + 1e-15).all()


def mean_of_continuous_bernoulli(logits: torch.Tensor) -> torch.Tensor:
    return ContinuousBernoulli(logits.view(1, 1, 1, 1, -1)).mean.view(logits.shape)


@pytest.mark.parametrize("sign", [-1, 1])
def test_continuous_bernoulli_is_continuous_where_the_series_begins(sign: int) -> None:
    outside = torch.tensor(sign * NEAR_HALF, dtype=torch.float64).requires_grad_()
    inside = torch.nextafter(
        outside.detach(), torch.tensor(0.0, dtype=torch.float64)
    ).requires_grad_()
    for function in (
        log_continuous_bernoulli_normalizer,
        mean_of_continuous_bernoulli,
    ):
        values = [function(logit) for logit in (inside, outside)]
        slopes = [torch.autograd.grad(function(logit), logit)[0] for logit in (inside, outside)]
        torch.testing.assert_close(*values, rtol=0, atol=1e-12)
        torch.testing.assert_close(*slopes, rtol=0, atol=1e-10)


def test_gradients_of_the_pixels() -> None:
    logits = torch.tensor(
        [-20, -0.5, -0.1001, -0.05, 0, 0.03, 0.0999, 2, 9.2], dtype=torch.float64
    ).requires_grad_()
    assert torch.autograd.gradcheck(log_continuous_bernoulli_normalizer, logits)
    assert torch.autograd.gradcheck(mean_of_continuous_bernoulli, logits)
    location, scale = (value[:1].clone().requires_grad_() for value in (LOCATION, SCALE))
    x = (X * 255).round() / 255
    x[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    for family in (Gaussian, Laplace, DiscretizedLogistic):
        assert torch.autograd.gradcheck(
            lambda a, b, family=family: family(a, b).recon(x), (location, scale)
        )


@pytest.mark.parametrize(
    "pixels",
    [
        SquaredError(pixel(0.3)),
        Gaussian(pixel(0.3), pixel(0.05)),
        Laplace(pixel(0.3), pixel(0.05)),
        Bernoulli(pixel(-1.3)),
        *[ContinuousBernoulli(pixel(logit)) for logit in (-9.2, -5e-4, 0.0, 2.0, 9.2)],
        *[DiscretizedLogistic(pixel(0.3), pixel(scale)) for scale in (1e-4, 0.01, 0.5)],
    ],
    ids=lambda pixels: type(pixels).__name__,
)
def test_draws_have_the_probabilities_of_the_density(pixels: object) -> None:
    """The fraction of draws up to x is the integral, or the sum, of p up to x."""
    count = 100_000
    wide = {name: value.expand(1, count, 1, 1, 1) for name, value in vars(pixels).items()}
    drawn = type(pixels)(**wide).sample(torch.Generator().manual_seed(0)).flatten()
    if isinstance(pixels, Bernoulli | DiscretizedLogistic):
        points = torch.tensor([0.0, 1.0]).double() if isinstance(pixels, Bernoulli) else LEVELS
        below = density(pixels, points).cumsum(0)
    else:
        ends = (0.0, 1.0) if isinstance(pixels, ContinuousBernoulli) else (-9.7, 10.3)
        points = torch.linspace(*ends, 200_001, dtype=torch.float64)
        below = torch.cumulative_trapezoid(density(pixels, points), points)
        points = points[1:]
    found = torch.searchsorted(drawn.sort().values, points + 1e-9, right=True) / count
    # Kolmogorov-Smirnov: exceeded once in 10,000 times
    assert float((found - below).abs().max()) < 2.2 / math.sqrt(count)
    assert float(drawn.mean()) == pytest.approx(
        float(pixels.mean), abs=5 * float(drawn.std()) / math.sqrt(count) + 1e-9
    )
