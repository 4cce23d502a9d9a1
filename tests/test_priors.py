"""Mixture, VampPrior and flow prior in float64."""

import math

import pytest
import torch
from torch import Tensor, distributions, nn

from vae_lightning.distributions import (
    DiagonalNormal,
    FullNormal,
    Mixture,
    MixturePrior,
    StandardNormal,
    StandardNormalPrior,
    VampPrior,
    kl_divergence,
)
from vae_lightning.distributions.flows import FlowPrior
from vae_lightning.objectives import Terms

LATENTS = 2


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixtures() -> dict[str, tuple[Mixture, distributions.Distribution]]:
    """Mixtures of three unlike components, with torch's own."""
    log_weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
    mean, std = draws(3, LATENTS), draws(3, LATENTS, seed=1).abs() + 0.2
    scale_tril = draws(3, LATENTS, LATENTS, seed=2).tril(-1) + torch.diag_embed(std)
    weights = distributions.Categorical(logits=log_weights)
    diagonal = distributions.Independent(distributions.Normal(mean, std), 1)
    full = distributions.MultivariateNormal(mean, scale_tril=scale_tril)
    return {
        "diagonal": (
            Mixture(log_weights, DiagonalNormal(mean, std)),
            distributions.MixtureSameFamily(weights, diagonal),
        ),
        "full": (
            Mixture(log_weights, FullNormal(mean, scale_tril)),
            distributions.MixtureSameFamily(weights, full),
        ),
    }


def random_prior(name: str, latent_dim: int = LATENTS) -> nn.Module:
    """A prior whose parameters are far from where they start."""
    torch.manual_seed(3)
    prior = {
        "standard_normal": lambda: StandardNormalPrior(latent_dim),
        "mixture": lambda: MixturePrior(latent_dim, components=3),
        "flow": lambda: FlowPrior(latent_dim, transforms=3, hidden_dims=[8, 8]),
        "vamp": lambda: VampPrior(4, [1, 2, 2]),
    }[name]()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.copy_(1.3 * parameter + 0.2 * torch.randn(parameter.shape))
    return prior


class Encoder(nn.Module):
    """The posterior N((first pixels), 0.3^2 + ...) of a picture: no parameters, any precision."""

    def __init__(self, latent_dim: int = LATENTS, std: float = 0.3) -> None:
        super().__init__()
        self.latent_dim, self.std = latent_dim, std

    def forward(self, x: Tensor) -> DiagonalNormal:
        mean = 4 * x.flatten(1)[:, : self.latent_dim]
        return DiagonalNormal(mean, self.std * (1 + mean.square() / 16))


@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_mixture_log_prob_is_torch_distributions(kind: str) -> None:
    ours, theirs = mixtures()[kind]
    z = 2 * draws(4, 5, LATENTS, seed=4)
    assert ours.log_prob(z).shape == (4, 5)
    torch.testing.assert_close(ours.log_prob(z), theirs.log_prob(z), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_mixture_samples_have_the_moments(kind: str) -> None:
    (ours, theirs), count = mixtures()[kind], 200_000
    z = ours.sample(count, generator())
    assert z.shape == (count, LATENTS)
    assert ((z.mean(0) - theirs.mean).abs() < 5 * (theirs.variance / count).sqrt()).all()
    fourth = (z - theirs.mean).pow(4).mean(0)
    assert (
        (z.var(0) - theirs.variance).abs() < 5 * ((fourth - theirs.variance**2) / count).sqrt()
    ).all()
    assert torch.equal(ours.sample(7, generator(1)), ours.sample(7, generator(1)))
    assert not torch.equal(ours.sample(7, generator(1)), ours.sample(7, generator(2)))


def test_mixture_prior_is_the_softmax_of_its_logits_and_its_normals() -> None:
    prior = random_prior("mixture").double()
    mixture = prior(Encoder())
    assert float(mixture.log_weights.exp().sum().detach()) == pytest.approx(1)
    torch.testing.assert_close(mixture.log_weights.exp(), prior.logits.softmax(0))
    assert torch.equal(mixture.components.mean, prior.mean)
    fresh = MixturePrior(LATENTS, 5)(Encoder())
    torch.testing.assert_close(fresh.components.std, torch.ones(5, LATENTS), rtol=1e-5, atol=0)
    torch.testing.assert_close(fresh.log_weights, torch.full((5,), -math.log(5)))


@pytest.mark.parametrize("latent_dim", [1, 2])
@pytest.mark.parametrize("name", ["standard_normal", "mixture", "vamp", "flow"])
def test_priors_integrate_to_one(name: str, latent_dim: int) -> None:
    with torch.no_grad():
        density = random_prior(name, latent_dim).double()(Encoder(latent_dim))
        line = torch.linspace(-25, 25, 50_001 if latent_dim == 1 else 1001, dtype=torch.float64)
        grid = torch.cartesian_prod(*[line] * latent_dim).view(-1, 1, latent_dim)
        total = density.log_prob(grid).exp().sum() * (line[1] - line[0]) ** latent_dim
    assert float(total) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    "name",
    ["standard_normal", "mixture", "vamp", pytest.param("flow", marks=pytest.mark.slow)],
)
def test_samples_of_a_prior_have_its_density(name: str) -> None:
    """The share of the samples in a box is the integral of the density over the box."""
    count = 20_000
    density = random_prior(name)(Encoder())
    z = density.sample(count, generator(5))
    assert z.shape == (count, LATENTS)
    assert not z.requires_grad
    line = torch.linspace(-25, 25, 2001)
    grid = torch.cartesian_prod(line, line)
    with torch.no_grad():
        mass = density.log_prob(grid.view(-1, 1, LATENTS)).exp()[:, 0] * (line[1] - line[0]) ** 2
    for low, high in (
        (-9.0125, 0.0125),
        (0.0125, 1.0125),
        (-1.0125, 2.0125),
    ):  # between points of the grid
        inside = ((grid > low) & (grid < high)).all(-1)
        p = float(mass[inside].sum())
        share = float(((z > low) & (z < high)).all(-1).float().mean())
        assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / count) + 0.003, (
            low,
            high,
        )  # and the grid's error


def test_flow_prior_draws_the_same_under_autocast() -> None:
    density = random_prior("flow")(Encoder())
    exact = density.sample(9, generator(6))
    z = draws(3, 5, LATENTS).float()
    log_prob = density.log_prob(z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(density.log_prob(z), log_prob)
        assert torch.equal(density.sample(9, generator(6)), exact)


def test_flow_prior_density_is_that_of_its_draws() -> None:
    """Draws go through the inverse: forward again they are standard normal draws, one for one."""
    density = random_prior("flow")(Encoder())
    z = density.sample(50, generator(7))
    base = StandardNormal(LATENTS).sample(50, generator(7))
    torch.testing.assert_close(density.transform(z), base, rtol=1e-3, atol=1e-3)


def test_pseudo_inputs_start_as_training_images_evenly_spaced() -> None:
    prior = VampPrior(3, [1, 2, 2])
    images = torch.arange(0, 255, 17, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    prior.start_from(images, binarized=False)
    expected = (images[[0, 7, 14]] / 255).clamp(0.02, 0.98)
    torch.testing.assert_close(prior.logits.sigmoid(), expected)


@pytest.mark.parametrize("std", [1.5, 0.3, 0.003])
def test_kl_to_a_vamp_prior_of_the_data_is_the_information_between_image_and_latent(
    std: float,
) -> None:
    """Mean KL(q(z|x_n) || 1/N sum_m q(z|x_m)) = I(n; z) <= log N.

    It equals log N if no two posteriors overlap.
    """
    images = torch.tensor([30, 60, 120, 125, 200], dtype=torch.uint8)[:, None, None, None]
    size, encoder, prior = len(images), Encoder(1, std), VampPrior(len(images), [1, 1, 1]).double()
    prior.start_from(images, binarized=False)
    q, p = encoder(images.double() / 255), prior(encoder)
    torch.testing.assert_close(p.components.mean, q.mean, rtol=1e-6, atol=1e-7)

    z = torch.linspace(-12, 16, 560_001, dtype=torch.float64)[:, None, None]
    step = float(z[1] - z[0])
    with torch.no_grad():
        log_q = q.log_prob(z)  # (points, N)
        aggregate = log_q.exp().mean(1)
        entropy = -(torch.special.xlogy(aggregate, aggregate)).sum() * step
        conditional = 0.5 * math.log(2 * math.pi * math.e) + q.std.log().mean()
        information = float(entropy - conditional)
        by_quadrature = float((log_q.exp() * (log_q - p.log_prob(z))).sum() * step / size)
        samples = q.transform(draws(40_000, size, 1, seed=8))
        terms = Terms(samples.new_zeros(40_000, size), samples, q, p)
        assert kl_divergence(q, p) is None
        error = float((terms.log_q - terms.log_p).std() / math.sqrt(terms.log_q.numel()))
    assert by_quadrature == pytest.approx(information, abs=1e-5)
    assert float(terms.kl.mean()) == pytest.approx(information, abs=5 * error + 1e-6)
    assert 0 < information <= math.log(size) + 1e-6
    if std == 0.003:
        assert information == pytest.approx(math.log(size), abs=1e-6)
