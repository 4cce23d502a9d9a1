"""Total correlation and MMD in float64.

The references are integrals on a grid, closed forms and all batches of a small data set.
"""

import itertools
import math
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from vae_lightning.distributions import DiagonalNormal, FullNormal, StandardNormal, kl_divergence
from vae_lightning.objectives import MMD, TC, Terms, elbo, mmd, total_correlation
from vae_lightning.objectives.annealing import Linear


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def mean_and_error(
    posterior: DiagonalNormal | FullNormal, groups: int = 100, samples: int = 1000
) -> tuple[float, ...]:
    """The total correlation of a data set of one batch, and its standard error over groups."""
    size, latents = posterior.mean.shape
    noise = draws(groups, samples, size, latents, seed=9)
    values = torch.stack(
        [total_correlation(posterior, posterior.transform(eps), size).mean() for eps in noise]
    )
    return float(values.mean()), float(values.std()) / math.sqrt(groups)


@pytest.mark.parametrize("rho", [0.0, 0.5, -0.95])
def test_total_correlation_of_one_correlated_normal(rho: float) -> None:
    """-1/2 log(1 - rho^2)."""
    std = torch.tensor([[0.5, 3.0]], dtype=torch.float64)
    factor = torch.tensor([[1.0, 0.0], [rho, math.sqrt(1 - rho**2)]], dtype=torch.float64)
    value, error = mean_and_error(FullNormal(draws(1, 2), (std.mT * factor)[None]))
    assert value == pytest.approx(-0.5 * math.log(1 - rho**2), abs=5 * error + 1e-10)
    assert (value > 0.1) == (rho != 0)


POSTERIORS = {
    # each posterior is diagonal, but the coordinates depend on each other through the image
    "diagonal": DiagonalNormal(
        torch.tensor([[-1.0, -1.2], [0.8, 1.0], [2.0, 1.5]], dtype=torch.float64),
        torch.tensor([[0.3, 0.5], [0.4, 0.2], [0.6, 0.6]], dtype=torch.float64),
    ),
    "full": FullNormal(
        torch.tensor([[-1.0, 1.2], [0.8, 0.0]], dtype=torch.float64),
        torch.tensor([[[0.5, 0.0], [0.4, 0.3]], [[0.6, 0.0], [-0.5, 0.4]]], dtype=torch.float64),
    ),
}


@pytest.mark.parametrize(("std", "expected"), [(0.3, 8.8), (0.1, 27.5)])
def test_the_estimate_of_a_batch_is_too_large_if_the_posteriors_are_narrow(
    std: float, expected: float
) -> None:
    """Where q(z) = N(0, I), and TC = 0: batches of 128 of 55,000 images, 16 dimensions."""
    values = []
    for seed in range(10):
        mean = math.sqrt(1 - std**2) * draws(128, 16, seed=seed)
        q = DiagonalNormal(mean, torch.full_like(mean, std))
        z = q.transform(draws(1, 128, 16, seed=100 + seed))
        values.append(total_correlation(q, z, 55_000).mean())
    assert float(torch.stack(values).mean()) == pytest.approx(expected, abs=0.5)


@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_total_correlation_and_the_parts_of_the_kl_by_integration(kind: str) -> None:
    """Mean KL = I(n; z) + TC + sum_l KL(q(z_l) || N(0, 1)) on a grid; the estimate of TC agrees."""
    q = POSTERIORS[kind]
    line = torch.linspace(-6, 6, 1201, dtype=torch.float64)
    step = float(line[1] - line[0])
    grid = torch.cartesian_prod(line, line)  # (points^2, 2)
    each = q.cross_log_prob(grid).exp()  # (points^2, N)
    joint = each.mean(-1)
    table = joint.view(len(line), len(line))
    marginals = [table.sum(1) * step, table.sum(0) * step]
    product = (marginals[0][:, None] * marginals[1]).flatten()

    def integral(p: Tensor, ratio: Tensor, cell: float) -> float:
        return float(torch.special.xlogy(p, ratio).sum()) * cell

    information = integral(each, each / joint[:, None], step**2) / each.shape[1]
    correlation = integral(joint, joint / product, step**2)
    normal = torch.exp(StandardNormal(1).log_prob(line[:, None]))
    dimensions = sum(integral(marginal, marginal / normal, step) for marginal in marginals)
    kl = float(kl_divergence(q, StandardNormal(2)).mean())
    assert kl == pytest.approx(information + correlation + dimensions, abs=1e-6)

    value, error = mean_and_error(q)
    assert correlation > 0.2
    assert value == pytest.approx(correlation, abs=5 * error)


def test_a_single_image_with_independent_coordinates_has_none() -> None:
    q = DiagonalNormal(draws(1, 3), draws(1, 3, seed=1).exp())
    value = total_correlation(q, q.transform(draws(4, 1, 3, seed=2)), 1)
    torch.testing.assert_close(value, torch.zeros(1, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [5, 60_000])
def test_total_correlation_does_not_depend_on_the_order_of_images_samples_and_coordinates(
    size: int,
) -> None:
    q = DiagonalNormal(draws(5, 3), draws(5, 3, seed=1).exp())
    z = q.transform(draws(4, 5, 3, seed=2))
    value = total_correlation(q, z, size)
    assert value.shape == (5,)
    images, samples, coordinates = (
        torch.tensor([3, 0, 4, 1, 2]),
        torch.tensor([2, 0, 3, 1]),
        torch.tensor([1, 2, 0]),
    )
    torch.testing.assert_close(total_correlation(q.take(images), z[:, images], size), value[images])
    torch.testing.assert_close(total_correlation(q, z[samples], size), value)
    turned = DiagonalNormal(q.mean[:, coordinates], q.std[:, coordinates])
    torch.testing.assert_close(total_correlation(turned, z[..., coordinates], size), value)


@dataclass
class Joint:
    """Normals whose marginals have density 1, so that the total correlation is log q(z) alone."""

    normals: DiagonalNormal

    def cross_log_prob(self, z: Tensor) -> Tensor:
        return self.normals.cross_log_prob(z)

    def marginals(self) -> object:
        count = len(self.normals.mean)
        return SimpleNamespace(
            log_prob_per_dim=lambda z: z.new_zeros(*z.shape[:-2], count, z.shape[-1])
        )


@pytest.mark.parametrize("batch", [2, 3, 5])
def test_the_density_of_a_batch_is_unbiased_for_that_of_the_data_set(batch: int) -> None:
    """The mean of the estimate of q(z_i) over all batches that contain image i is q(z_i)."""
    size, own = 5, 2
    q = DiagonalNormal(draws(size, 2), draws(size, 2, seed=1).exp())
    z = draws(1, size, 2, seed=2)
    estimates = []
    for others in itertools.combinations([j for j in range(size) if j != own], batch - 1):
        index = torch.tensor([own, *others])
        estimates.append(total_correlation(Joint(q.take(index)), z[:, index], size)[0].exp())
    exact = q.cross_log_prob(z[0, own]).exp().mean()
    torch.testing.assert_close(torch.stack(estimates).mean(), exact, rtol=1e-10, atol=0)


def some_terms(posterior: DiagonalNormal | FullNormal, samples: int = 2) -> Terms:
    size, latents = posterior.mean.shape
    z = posterior.transform(draws(samples, size, latents, seed=3))
    return Terms(draws(samples, size, seed=4), z, posterior, StandardNormal(latents))


def test_tc_weights_the_total_correlation_of_its_data_set_beside_the_elbo() -> None:
    terms = some_terms(POSTERIORS["diagonal"])
    objective = TC(beta=6, num_samples=2, annealing=Linear(10))
    objective.start_from(torch.zeros(70, 1, 2, 2, dtype=torch.uint8), binarized=False)
    tc = total_correlation(terms.posterior, terms.z, 70)
    torch.testing.assert_close(objective(terms, 20), elbo(terms) + 5 * tc)
    torch.testing.assert_close(objective(terms, 5), elbo(terms) + 2 * tc)  # beta = 3
    torch.testing.assert_close(TC_of(1.0, 70)(terms, 0), elbo(terms))
    assert not torch.allclose(TC_of(6.0, 3)(terms, 0), objective(terms, 20))
    restored = TC(beta=6)
    restored.load_state_dict(objective.state_dict())
    assert torch.equal(restored(terms, 0), objective(terms, 20))


def TC_of(beta: float, size: int) -> TC:  # noqa: N802 - a TC
    objective = TC(beta)
    objective.dataset_size.fill_(size)
    return objective


def exact_mmd(means: tuple[Tensor, Tensor], variances: tuple[Tensor, Tensor]) -> float:
    """Squared MMD of two normals with diagonal covariance under exp(-|a - b|^2 / (2 L)).

    E k(a, b) = prod_l sqrt(L / (L + v_l + w_l)) exp(-(m_l - n_l)^2 / (2 (L + v_l + w_l))).
    """
    length = len(means[0])

    def expected(i: int, j: int) -> float:
        width = length + variances[i] + variances[j]
        return float(
            (
                (length / width).sqrt() * torch.exp(-((means[i] - means[j]) ** 2) / (2 * width))
            ).prod()
        )

    return expected(0, 0) + expected(1, 1) - 2 * expected(0, 1)


@pytest.mark.parametrize("shift", [0.0, 0.7])
@pytest.mark.parametrize("latent_dim", [1, 3])
def test_mmd_is_unbiased_for_its_closed_form(latent_dim: int, shift: float) -> None:
    means = (
        torch.zeros(latent_dim, dtype=torch.float64),
        shift + torch.zeros(latent_dim, dtype=torch.float64),
    )
    variances = means[0] + 1, means[0] + (1 if shift == 0 else 0.4)
    first = draws(2000, 10, latent_dim, seed=5)
    second = means[1] + variances[1].sqrt() * draws(2000, 13, latent_dim, seed=6)
    values = torch.stack([mmd(a[None], b) for a, b in zip(first, second, strict=True)])
    exact = exact_mmd(means, variances)
    assert (exact > 0.02) == (shift != 0)
    assert float(values.mean()) == pytest.approx(
        exact, abs=5 * float(values.std()) / math.sqrt(2000)
    )
    assert (values < 0).any() or shift, "an unbiased estimate of 0 has both signs"


def test_mmd_with_several_samples_per_image_is_unbiased() -> None:
    """m ~ N(0, 1 - s^2) and z|m ~ N(m, s^2) have the aggregate N(0, 1), whose distance is 0."""
    std, images, samples, repetitions = 0.3, 8, 4, 1500
    means = math.sqrt(1 - std**2) * draws(repetitions, 1, images, 1, seed=7)
    z = means + std * draws(repetitions, samples, images, 1, seed=8)
    other = draws(repetitions, samples * images, 1, seed=9)
    values = torch.stack([mmd(a, b) for a, b in zip(z, other, strict=True)])
    error = float(values.std()) / math.sqrt(repetitions)
    assert abs(float(values.mean())) < 4 * error
    as_independent = torch.stack([mmd(a.view(1, -1, 1), b) for a, b in zip(z, other, strict=True)])
    assert float(as_independent.mean()) > 10 * error, "nothing to correct"


def test_mmd_objective_compares_all_samples_with_draws_that_depend_on_the_step() -> None:
    terms = some_terms(POSTERIORS["diagonal"])
    objective = MMD(weight=100, beta=0.5, num_samples=2, annealing=Linear(10))
    assert torch.equal(objective(terms, 4), objective(terms, 4))
    extra = objective(terms, 4) - elbo(terms, 0.2)
    assert extra.unique().numel() == 1 or float(extra.max() - extra.min()) < 1e-12
    assert not torch.allclose(
        objective(terms, 30) - elbo(terms, 0.5), objective(terms, 31) - elbo(terms, 0.5)
    )
    means = [objective(terms, step) - elbo(terms, 0.5) for step in range(20, 1520)]
    values = torch.stack(means)[:, 0] / 100
    z = terms.z.flatten(0, 1)
    normal = 0.5 ** (2 / 2)  # E k(b, b') for b, b' ~ N(0, I) in L = 2: (L / (L + 2))^(L/2)
    cross = (
        2 / 3 * torch.exp(-z.square().sum(-1) / 6)
    ).mean()  # E k(z, b) = (L / (L + 1))^(L/2) exp(...)
    pairs = torch.exp(-torch.cdist(z, z).square() / 4)
    image = torch.arange(terms.z.shape[1]).repeat(2)
    within = pairs[image[:, None] != image].mean()  # samples of the same image are not independent
    expected = float(within + normal - 2 * cross)
    assert float(values.mean()) == pytest.approx(
        expected, abs=5 * float(values.std()) / math.sqrt(len(values))
    )


def test_mmd_of_a_single_sample_is_none() -> None:
    terms = some_terms(POSTERIORS["diagonal"].take(torch.tensor([0])), samples=1)
    torch.testing.assert_close(MMD(weight=100, beta=0.5)(terms, 4), elbo(terms, 0.5))
