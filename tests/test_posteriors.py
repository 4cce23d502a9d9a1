"""Posteriors with a full covariance matrix and flows, in float64."""

import math

import pytest
import torch
from torch import Tensor, distributions
from torch.autograd.functional import jacobian

from helpers import some_posterior, tiny, tiny_model
from vae_lightning.config.compose import choices
from vae_lightning.distributions import (
    DiagonalNormal,
    DiagonalNormalPosterior,
    FullNormal,
    StandardNormal,
    kl_divergence,
)
from vae_lightning.distributions.posterior import MEAN_SAMPLES

BATCH, LATENTS = 5, 3
KINDS = ["diagonal", "full", "flow"]


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def some_full_normal() -> FullNormal:
    scale_tril = draws(BATCH, LATENTS, LATENTS).tril(-1) + torch.diag_embed(
        draws(BATCH, LATENTS).abs() + 0.2
    )
    return FullNormal(draws(BATCH, LATENTS, seed=1), scale_tril)


def some_diagonal_normal() -> DiagonalNormal:
    return DiagonalNormal(draws(BATCH, LATENTS, seed=2), draws(BATCH, LATENTS, seed=3).abs() + 0.1)


def full_torch(q: FullNormal) -> distributions.MultivariateNormal:
    return distributions.MultivariateNormal(q.mean, scale_tril=q.scale_tril)


def test_full_normal_is_torch_distributions() -> None:
    q, z = some_full_normal(), draws(4, BATCH, LATENTS, seed=5)
    torch.testing.assert_close(q.log_prob(z), full_torch(q).log_prob(z), rtol=1e-10, atol=1e-10)
    prior = distributions.MultivariateNormal(
        torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    )
    expected = distributions.kl_divergence(full_torch(q), prior)
    torch.testing.assert_close(
        kl_divergence(q, StandardNormal(3)), expected, rtol=1e-10, atol=1e-10
    )
    noise = draws(4, BATCH, LATENTS, seed=6)
    torch.testing.assert_close(
        q.transform(noise), q.mean + torch.einsum("bij,kbj->kbi", q.scale_tril, noise)
    )
    marginals, covariance = q.marginals(), q.scale_tril @ q.scale_tril.mT
    torch.testing.assert_close(marginals.mean, q.mean)
    torch.testing.assert_close(marginals.std, covariance.diagonal(dim1=-2, dim2=-1).sqrt())


@pytest.mark.parametrize("conditional", ["false", "true"])
@pytest.mark.parametrize("option", choices("posterior"))
def test_has_marginals_says_whether_a_posterior_has_marginals(
    option: str, conditional: str
) -> None:
    model, x, condition = tiny_model(
        tiny(f"posterior={option}", f"model.conditional={conditional}")
    )
    q = model.encoder(x, condition)
    marginals = q.marginals()
    assert (
        model.encoder.has_marginals
        == (marginals is not None)
        == (option not in ("flow", "hierarchical"))
    )
    if marginals is not None:
        assert isinstance(marginals, DiagonalNormal)
        assert marginals.mean.shape == marginals.std.shape == (len(x), model.latent_dim)
        torch.testing.assert_close(marginals.mean, q.mean)


@pytest.mark.parametrize("kind", KINDS)
def test_marginals_have_the_moments_of_the_samples(kind: str) -> None:
    with torch.no_grad():
        q = some_posterior(kind, LATENTS)(draws(BATCH, 1, 2, 2))
        if kind == "flow":
            assert q.marginals() is None
            return
        z = q.transform(draws(20_000, BATCH, LATENTS, seed=11))
        marginals = q.marginals()
    error = marginals.std / math.sqrt(len(z))
    assert ((z.mean(0) - marginals.mean).abs() < 5 * error).all()
    assert ((z.std(0) - marginals.std).abs() < 5 * error / math.sqrt(2)).all()


def test_a_full_normal_that_is_diagonal_is_the_diagonal_one() -> None:
    q, z = some_diagonal_normal(), draws(4, BATCH, LATENTS, seed=7)
    full = FullNormal(q.mean, torch.diag_embed(q.std))
    torch.testing.assert_close(full.log_prob(z), q.log_prob(z))
    torch.testing.assert_close(
        kl_divergence(full, StandardNormal(3)), kl_divergence(q, StandardNormal(3))
    )
    assert q.marginals() is q


@pytest.mark.parametrize(
    "q", [some_full_normal(), some_diagonal_normal()], ids=["full", "diagonal"]
)
def test_cross_log_prob_is_log_prob_of_every_pair(q: DiagonalNormal | FullNormal) -> None:
    z = draws(4, 7, LATENTS, seed=8)
    cross = q.cross_log_prob(z)
    assert cross.shape == (4, 7, BATCH)
    index = torch.tensor([4, 0, 0])
    for j in range(BATCH):
        one = q.take(torch.tensor([j]))
        torch.testing.assert_close(
            cross[..., j], one.log_prob(z.flatten(0, 1)[:, None]).view(4, 7), rtol=1e-9, atol=0
        )
    torch.testing.assert_close(q.take(index).cross_log_prob(z), cross[..., index])
    narrow = q.take(torch.arange(3)).cross_log_prob(z.float())
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow.double(), cross[..., :3], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", ["full", "diagonal"])
@pytest.mark.parametrize("autocast", [False, True])
def test_cross_log_prob_in_float32_is_exact_far_from_the_origin(kind: str, autocast: bool) -> None:
    """The squares are expanded; in float32, means of 30 and std of 0.01 would cancel completely."""
    mean, std = 30 + draws(BATCH, LATENTS).float(), torch.full((BATCH, LATENTS), 0.01)
    q = DiagonalNormal(mean, std) if kind == "diagonal" else FullNormal(mean, torch.diag_embed(std))
    z = mean + 0.01 * draws(4, BATCH, LATENTS, seed=1).float()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        own = q.cross_log_prob(z).diagonal(dim1=-2, dim2=-1)
        torch.testing.assert_close(own, q.log_prob(z), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "q", [some_full_normal(), some_diagonal_normal()], ids=["full", "diagonal"]
)
def test_closed_form_kl_is_the_mean_of_the_log_ratio(q: DiagonalNormal | FullNormal) -> None:
    priors = [
        StandardNormal(3),
        *([DiagonalNormal(q.mean + 0.5, 1.5 * q.std)] if hasattr(q, "std") else []),
    ]
    z = q.transform(draws(100_000, BATCH, LATENTS, seed=9))
    for p in priors:
        ratio = q.log_prob(z) - p.log_prob(z)
        error = ratio.std(0) / math.sqrt(len(z))
        assert ((ratio.mean(0) - kl_divergence(q, p)).abs() < 5 * error).all(), p


def test_full_normal_samples_have_the_covariance() -> None:
    q, count = some_full_normal(), 100_000
    z = q.transform(draws(count, BATCH, LATENTS, seed=10))
    for image in range(BATCH):
        expected = q.scale_tril[image] @ q.scale_tril[image].T
        variances = expected.diagonal()
        error = ((expected.square() + variances[:, None] * variances) / count).sqrt()
        assert ((torch.cov(z[:, image].T) - expected).abs() < 5 * error).all()
        assert ((z[:, image].mean(0) - q.mean[image]).abs() < 5 * (variances / count).sqrt()).all()


def test_full_normal_posterior_has_every_number_of_its_covariance() -> None:
    q = some_posterior("full", LATENTS)(draws(2, 1, 2, 2))
    assert (q.scale_tril.triu(1) == 0).all()
    assert (q.scale_tril.diagonal(dim1=-2, dim2=-1) > 0).all()
    lower = q.scale_tril[0][tuple(torch.tril_indices(3, 3))]
    assert len(lower.unique()) == 6


@pytest.mark.parametrize("latent_dim", [1, 2, 3])
def test_flow_density_of_its_own_samples_is_that_through_the_inverse(latent_dim: int) -> None:
    q = some_posterior("flow", latent_dim, scale=3)(draws(BATCH, 1, 2, 2))
    z = q.transform(draws(4, BATCH, latent_dim, seed=1))
    drawn = q.log_prob(z)
    assert drawn.shape == (4, BATCH)
    inverse = q.log_prob(z.detach().clone())
    assert not torch.equal(drawn, q.base.log_prob(z))
    torch.testing.assert_close(drawn, inverse, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(q.detach().log_prob(z), inverse, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("latent_dim", [1, 2, 3])
def test_flow_log_determinant_is_autograds(latent_dim: int) -> None:
    q = some_posterior("flow", latent_dim, scale=3)(draws(1, 1, 2, 2))
    noise = draws(1, 1, latent_dim, seed=2)
    matrix = jacobian(q.transform, noise).view(latent_dim, latent_dim)  # dz / d noise
    expected = StandardNormal(latent_dim).log_prob(noise) - torch.linalg.slogdet(matrix).logabsdet
    torch.testing.assert_close(q.log_prob(q.transform(noise)), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("latent_dim", [1, 2])
def test_flow_density_integrates_to_one_and_has_the_mean(latent_dim: int) -> None:
    with torch.no_grad():
        q = some_posterior("flow", latent_dim)(draws(1, 1, 2, 2))
        line = torch.linspace(-20, 20, 40_001 if latent_dim == 1 else 801, dtype=torch.float64)
        grid = torch.cartesian_prod(*[line] * latent_dim).view(-1, 1, latent_dim)
        mass = q.log_prob(grid).exp() * (line[1] - line[0]) ** latent_dim
        assert float(mass.sum()) == pytest.approx(1, abs=1e-4)
        mean = (mass[..., None] * grid).sum((0, 1))
        spread = (mass[..., None] * (grid - mean) ** 2).sum((0, 1)).sqrt()
        assert ((q.mean[0] - mean).abs() < 5 * spread / math.sqrt(MEAN_SAMPLES)).all()
        assert torch.equal(q.mean, q.mean)


@pytest.mark.parametrize("kind", KINDS)
def test_detached_parameters_are_constants_and_z_is_not(kind: str) -> None:
    posterior = some_posterior(kind, LATENTS)
    q = posterior(draws(BATCH, 1, 2, 2))
    z = q.transform(draws(4, BATCH, LATENTS, seed=3)).detach().requires_grad_()
    parameters = list(posterior.parameters())
    whole = torch.autograd.grad(q.log_prob(z).sum(), [z, *parameters])
    constant = q.detach().log_prob(z)
    parts = torch.autograd.grad(constant.sum(), [z, *parameters], allow_unused=True)
    torch.testing.assert_close(constant, q.log_prob(z))
    torch.testing.assert_close(parts[0], whole[0])
    names = [name for name, _ in posterior.named_parameters()]
    assert {
        name for name, grad in zip(names, parts[1:], strict=True) if grad is not None and grad.any()
    } == set()
    assert all(grad.any() for grad in whole)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_a_sampled_kl_is_its_finite_difference(kind: str) -> None:
    """d/d phi E_q[log q - log p] from samples, compared with finite differences."""
    posterior, x = some_posterior(kind, LATENTS), draws(2, 1, 2, 2)
    noise = draws(6, 2, LATENTS, seed=4)
    bias = posterior.network[1].bias

    def estimate() -> Tensor:
        q = posterior(x)
        z = q.transform(noise)
        return (q.log_prob(z) - StandardNormal(LATENTS).log_prob(z)).mean()

    (gradient,) = torch.autograd.grad(estimate(), bias)
    for index in range(len(bias)):
        values = []
        for change in (1e-6, -2e-6, 1e-6):
            with torch.no_grad():
                bias[index] += change
                values.append(estimate())
        assert float(gradient[index]) == pytest.approx(
            float(values[0] - values[1]) / 2e-6, abs=1e-6
        ), index


def test_a_bounded_log_variance_is_exp_within_its_bounds() -> None:
    outputs = torch.tensor([[0.3, 0.4, 0.5, -9.0, 1.0, 7.0]])
    posterior = DiagonalNormalPosterior(lambda _: lambda _: outputs, 3, log_variance=[-6, 2])
    q = posterior(torch.zeros(1, 1, 2, 2))
    assert torch.equal(q.mean, outputs[:, :3])
    torch.testing.assert_close(q.std.square().log(), torch.tensor([[-6.0, 1.0, 2.0]]))
    with pytest.raises(ValueError, match=r"^posterior.log_variance=\[2, -6\]: the first bound"):
        DiagonalNormalPosterior(lambda _: lambda _: outputs, 3, log_variance=[2, -6])


@pytest.mark.parametrize("bounds", [[-6, -2], [1, 3], [-6, 0], [0, 2]])
@pytest.mark.parametrize("shared", [False, True])
def test_a_bounded_log_variance_learns_also_if_its_bounds_exclude_0(
    bounds: list[float], shared: bool
) -> None:
    """Some steps bring std toward a target within the bounds, near the lower and the upper one."""
    low, high = bounds
    for share in (0.2, 0.8):
        torch.manual_seed(0)
        posterior = DiagonalNormalPosterior(
            lambda outputs: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, outputs)),
            *(2, shared, bounds),
        )
        target = low + share * (high - low)
        x = torch.rand(8, 1, 2, 2)
        start = posterior(x).std.square().log()
        assert ((low < start) & (start < high)).all()
        optimizer = torch.optim.Adam(posterior.parameters(), 0.02)
        for _ in range(100):
            optimizer.zero_grad()
            (posterior(x).std.square().log() - target).square().sum().backward()
            optimizer.step()
        found, start = posterior(x).std.square().log().detach(), start.detach()
        assert float((found - target).abs().mean()) < 0.3 * float((start - target).abs().mean())
