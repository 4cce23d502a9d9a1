"""DIP-VAE against closed forms, and the discriminator of FactorVAE against a known value."""

import math

import pytest
import torch
from torch import Tensor

from vae_lightning.distributions import DiagonalNormal, FullNormal, StandardNormal
from vae_lightning.objectives import DIP, Factor, Terms, elbo
from vae_lightning.objectives.annealing import Linear
from vae_lightning.objectives.disentangling import covariance


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def terms_of(posterior: DiagonalNormal | FullNormal, samples: int = 1) -> Terms:
    size, latents = posterior.mean.shape
    z = posterior.transform(draws(samples, size, latents, seed=3))
    return Terms(draws(samples, size, seed=4), z, posterior, StandardNormal(latents))


@pytest.mark.parametrize("full", [False, True])
def test_the_covariances_of_dip_are_those_of_means_and_samples(full: bool) -> None:
    mean, std = draws(7, 3), draws(7, 3, seed=1).exp()
    q = FullNormal(mean, torch.diag_embed(std)) if full else DiagonalNormal(mean, std)
    of_means = torch.cov(mean.T, correction=0)
    torch.testing.assert_close(covariance(q, "I"), of_means)
    z = q.transform(draws(100_000, 7, 3, seed=2)).flatten(0, 1)
    torch.testing.assert_close(covariance(q, "II"), torch.cov(z.T), rtol=0, atol=0.15)
    torch.testing.assert_close(covariance(q, "II"), of_means + std.square().mean(0).diag())


@pytest.mark.parametrize("kind", ["I", "II"])
@pytest.mark.parametrize("full", [False, True])
def test_autocast_changes_no_covariance(kind: str, full: bool) -> None:
    mean, std = draws(64, 3).float(), draws(64, 3, seed=1).float().exp()
    q = FullNormal(mean, torch.diag_embed(std)) if full else DiagonalNormal(mean, std)
    expected = covariance(q, kind)
    with torch.autocast("cpu", torch.bfloat16):
        found = covariance(q, kind)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_the_terms_of_a_discriminator_under_autocast_are_float32() -> None:
    torch.manual_seed(0)
    objective, z = Factor(1.0, 3, [8]), draws(32, 3).float()
    with torch.autocast("cpu", torch.bfloat16):
        assert objective.total_correlation(z).dtype == torch.float32
        assert objective.discriminator_loss(z, 0).dtype == torch.float32


def test_dip_adds_the_weighted_squares_of_the_differences_from_the_identity() -> None:
    # two images at +-(1, 2): Cov[mean] = ((1, 2), (2, 4))
    q = DiagonalNormal(torch.tensor([[1.0, 2.0], [-1.0, -2.0]]), torch.full((2, 2), 0.5))
    terms = terms_of(q)
    one = DIP("I", off_diagonal=3, diagonal=5, beta=2.0)
    torch.testing.assert_close(one(terms, 0), elbo(terms, 2.0) + 3 * 2 * 4 + 5 * 9)
    two = DIP("II", off_diagonal=3, diagonal=5)
    torch.testing.assert_close(two(terms, 0), elbo(terms) + 3 * 2 * 4 + 5 * (0.25**2 + 3.25**2))
    with pytest.raises(ValueError, match=r"^objective.kind=III: must be I or II"):
        DIP("III", 1, 1)


def test_an_uncorrelated_posterior_of_unit_variance_has_no_dip_penalty() -> None:
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).double()
    q = DiagonalNormal(0.6 * signs, torch.full((4, 2), 0.8).double())
    torch.testing.assert_close(DIP("II", 10, 10)(terms_of(q), 0), elbo(terms_of(q)))


def test_the_discriminator_of_factor_learns_a_planted_total_correlation() -> None:
    """-1/2 log(1 - rho^2) for a normal with correlation rho."""
    rho = 0.8
    torch.manual_seed(0)
    objective = Factor(gamma=1.0, latent_dim=2, hidden_dims=[64, 64]).double()
    optimizer = torch.optim.Adam(objective.parameters(), 2e-3)
    factor = torch.tensor([[1.0, 0.0], [rho, math.sqrt(1 - rho**2)]]).double()
    for step in range(800):
        optimizer.zero_grad()
        objective.discriminator_loss(draws(500, 2, seed=step) @ factor.T, step).backward()
        optimizer.step()
    with torch.no_grad():
        found = objective.total_correlation(draws(50_000, 2, seed=1000) @ factor.T)
        independent = objective.total_correlation(draws(50_000, 2, seed=1001))
    assert float(found) == pytest.approx(-0.5 * math.log(1 - rho**2), abs=0.06)
    assert float(independent) < 0


def test_factor_trains_its_discriminator_on_the_cross_entropy_and_the_rest_on_the_bound() -> None:
    objective = Factor(gamma=4.0, latent_dim=2, hidden_dims=[5], annealing=Linear(10)).double()
    mean = draws(6, 2).requires_grad_()
    q = DiagonalNormal(mean, torch.full((6, 2), 0.5).double())
    terms = terms_of(q, samples=2)
    z = terms.z.flatten(0, 1)
    assert objective.weights(5) == {"gamma": 2.0}
    loss = objective(terms, 5)
    torch.testing.assert_close(loss, elbo(terms) + 2 * objective.total_correlation(z))
    loss.mean().backward(retain_graph=True)
    found = [parameter.grad.clone() for parameter in objective.parameters()]
    found_mean, mean.grad = mean.grad, None
    own = torch.autograd.grad(objective.discriminator_loss(z.detach(), 5), objective.parameters())
    torch.testing.assert_close(found, list(own))
    (elbo(terms) + 2 * objective.total_correlation(z)).mean().backward()
    torch.testing.assert_close(found_mean, mean.grad)
    with torch.no_grad():
        torch.testing.assert_close(objective(terms, 5), loss)


def test_the_permutation_keeps_each_dimension_and_breaks_their_dependence() -> None:
    objective = Factor(gamma=1.0, latent_dim=2, hidden_dims=[5]).double()
    seen = []
    objective.discriminator.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    z = draws(2000, 1).expand(-1, 2)
    objective.discriminator_loss(z, 0)
    real, permuted = seen
    assert torch.equal(real, z)
    assert torch.equal(permuted.sort(0).values, z.sort(0).values)
    assert abs(float(torch.corrcoef(permuted.T)[0, 1])) < 0.1
