"""The importance-weighted bound and its gradients in float64.

The model is linear-Gaussian, so that log p(x) is known.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor, distributions

from helpers import some_posterior
from vae_lightning.distributions import (
    DiagonalNormal,
    FullNormal,
    Mixture,
    Posterior,
    SquaredError,
    StandardNormal,
)
from vae_lightning.objectives import ELBO, IWAE, Terms, iwae
from vae_lightning.objectives.annealing import Linear

SIZE, LATENTS, VARIANCE = 6, 2, 0.5  # pixels, latent dimensions, variance of a pixel given z
CONSTANT = SIZE / 2 * math.log(math.pi)  # what recon leaves out
ESTIMATORS = ["standard", "stl", "dreg"]


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@dataclass
class LinearModel:
    """x = W z + b + noise of variance 1/2, z ~ N(0, I)."""

    weight: Tensor
    bias: Tensor

    def recon(self, x: Tensor, z: Tensor) -> Tensor:
        """-log p(x|z) less CONSTANT for x (B, 1, 1, D) and z (K, B, L): (K, B)."""
        return SquaredError((z @ self.weight.T + self.bias)[:, :, None, None]).recon(x)

    def log_p(self, x: Tensor) -> Tensor:
        covariance = self.weight @ self.weight.T + VARIANCE * torch.eye(SIZE, dtype=torch.float64)
        return distributions.MultivariateNormal(self.bias, covariance).log_prob(x.flatten(1))

    def posterior(self, x: Tensor) -> FullNormal:
        precision = (
            self.weight.T @ self.weight / VARIANCE + torch.eye(LATENTS, dtype=torch.float64)
        ).inverse()
        mean = (x.flatten(1) - self.bias) @ self.weight @ precision / VARIANCE
        return FullNormal(mean, torch.linalg.cholesky(precision).expand(len(x), -1, -1))

    def terms(self, x: Tensor, q: Posterior, noise: Tensor, prior: object = None) -> Terms:
        z = q.transform(noise)
        return Terms(self.recon(x, z), z, q, prior or StandardNormal(LATENTS))


MODEL = LinearModel(0.8 * draws(SIZE, LATENTS, seed=1), draws(SIZE, seed=2))
X = draws(3, 1, 1, SIZE, seed=3)


def near(model: LinearModel, x: Tensor) -> DiagonalNormal:
    """A posterior near the exact one but wider, so that the weights have moments; requires grad."""
    exact = model.posterior(x)
    mean, std = exact.mean + 0.3, 1.5 * exact.marginals().std
    return DiagonalNormal(mean.clone().requires_grad_(), std.clone().requires_grad_())


def test_one_sample_is_the_elbo_with_a_sampled_kl() -> None:
    terms = MODEL.terms(X, near(MODEL, X), draws(1, 3, LATENTS))
    torch.testing.assert_close(iwae(terms), terms.recon[0] + terms.log_q[0] - terms.log_p[0])
    torch.testing.assert_close(
        iwae(terms, beta=0.3), terms.recon[0] + 0.3 * (terms.log_q[0] - terms.log_p[0])
    )
    # under a prior without a closed form, the very loss of objective=elbo
    prior = Mixture(
        torch.zeros(1, dtype=torch.float64),
        DiagonalNormal(draws(1, LATENTS), draws(1, LATENTS).exp()),
    )
    terms = MODEL.terms(X, near(MODEL, X), draws(1, 3, LATENTS), prior)
    torch.testing.assert_close(IWAE(1, beta=0.7)(terms, 0), ELBO(0.7)(terms, 0))


def test_the_bound_is_the_log_of_the_mean_weight() -> None:
    terms = MODEL.terms(X, near(MODEL, X), draws(50, 3, LATENTS))
    weights = (terms.log_p - terms.log_q - terms.recon).exp()
    torch.testing.assert_close(iwae(terms), -weights.mean(0).log())


@torch.no_grad()
def test_the_bound_rises_with_the_samples_to_log_p_and_its_mean_weight_is_p() -> None:
    """L_k <= L_(k+1) <= log p(x), E[exp L_k] = p(x) and k (log p(x) - L_k) -> Var(w / p(x)) / 2."""
    x, pool = X[:1], 2**18
    q = near(MODEL, x)
    log_p = float(MODEL.log_p(x))
    gaps, errors, sizes = [], [], (1, 2, 4, 16, 256)
    for k in sizes:
        terms = MODEL.terms(
            x.expand(pool // k, -1, -1, -1), q, draws(k, pool // k, LATENTS, seed=4)
        )
        gap = log_p - (-iwae(terms) - CONSTANT)  # log p(x) - L_k by each group of k samples
        gaps.append(float(gap.mean()))
        errors.append(float(gap.std()) / math.sqrt(pool // k))
        ratio = (-gap).exp()
        assert abs(float(ratio.mean()) - 1) < 5 * float(ratio.std()) / math.sqrt(pool // k), k
    for (one, more), error in zip(pairwise(gaps), errors, strict=False):
        assert one - more > 5 * error, "more samples must bring the bound nearer"
    assert gaps[-1] > -5 * errors[-1]
    weights = (
        log_p
        - (-iwae(MODEL.terms(x.expand(pool, -1, -1, -1), q, draws(1, pool, LATENTS))) - CONSTANT)
    ).neg()
    assert sizes[-1] * gaps[-1] == pytest.approx(
        float(weights.exp().var()) / 2, abs=5 * sizes[-1] * errors[-1]
    )


@torch.no_grad()
def test_under_the_exact_posterior_every_weight_is_p() -> None:
    for k in (1, 5):
        terms = MODEL.terms(X, MODEL.posterior(X), draws(k, 3, LATENTS))
        torch.testing.assert_close(-iwae(terms) - CONSTANT, MODEL.log_p(X), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_value_is_the_same_for_every_gradient(estimator: str) -> None:
    terms = MODEL.terms(X, near(MODEL, X), draws(5, 3, LATENTS))
    expected = iwae(MODEL.terms(X, near(MODEL, X), draws(5, 3, LATENTS)))
    torch.testing.assert_close(iwae(terms, gradient=estimator), expected, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        still = IWAE(5, estimator)(MODEL.terms(X, near(MODEL, X), draws(5, 3, LATENTS)), 0)
    torch.testing.assert_close(still, expected.detach(), rtol=1e-12, atol=1e-12)


def test_the_standard_gradient_is_that_of_finite_differences() -> None:
    start = near(MODEL, X)
    weight = MODEL.weight.clone().requires_grad_()

    def bound(mean: Tensor, std: Tensor, weight: Tensor) -> Tensor:
        return iwae(
            LinearModel(weight, MODEL.bias).terms(
                X, DiagonalNormal(mean, std), draws(4, 3, LATENTS)
            ),
            0.7,
        )

    assert torch.autograd.gradcheck(bound, (start.mean, start.std, weight))


def gradients(estimator: str, samples: int, replicates: int) -> tuple[Tensor, Tensor]:
    """Gradients with respect to mean and std, (replicates, 2 L), and to the decoder's weight.

    Each replicate has noise of its own. The gradient of the decoder's weight is summed.
    """
    x = X[:1].expand(replicates, -1, -1, -1)
    start = near(MODEL, X[:1])
    q = DiagonalNormal(
        *(v.detach().repeat(replicates, 1).requires_grad_() for v in (start.mean, start.std))
    )
    weight = MODEL.weight.clone().requires_grad_()
    noise = draws(samples, replicates, LATENTS, seed=6)
    iwae(LinearModel(weight, MODEL.bias).terms(x, q, noise), gradient=estimator).sum().backward()
    return torch.cat([q.mean.grad, q.std.grad], dim=-1), weight.grad


@pytest.mark.parametrize("samples", [1, 2, 8])
def test_dreg_has_the_standard_gradients_mean_and_its_decoder_gradient(samples: int) -> None:
    count = 60_000
    (standard, decoder), (doubly, same) = (
        gradients(kind, samples, count) for kind in ("standard", "dreg")
    )
    torch.testing.assert_close(same, decoder, rtol=1e-10, atol=1e-10)
    difference = doubly - standard  # the same noise: errors of the difference alone
    assert (difference.mean(0).abs() < 5 * difference.std(0) / math.sqrt(count)).all()
    assert (doubly.mean(0).abs() > 5 * doubly.std(0) / math.sqrt(count)).any(), "nothing to compare"
    assert doubly.var(0).sum() < standard.var(0).sum()


def test_sticking_the_landing_is_unbiased_for_one_sample_and_not_for_more() -> None:
    for samples, unbiased in ((1, True), (8, False)):
        (standard, decoder), (sticking, same) = (
            gradients(kind, samples, 60_000) for kind in ("standard", "stl")
        )
        torch.testing.assert_close(same, decoder, rtol=1e-10, atol=1e-10)
        difference = sticking - standard
        error = 5 * difference.std(0) / math.sqrt(60_000)
        assert bool((difference.mean(0).abs() < error).all()) == unbiased


def test_sticking_the_landing_has_no_variance_at_the_exact_posterior() -> None:
    exact = MODEL.posterior(X)
    for estimator in ESTIMATORS:
        q = FullNormal(
            exact.mean.clone().requires_grad_(), exact.scale_tril.clone().requires_grad_()
        )
        iwae(MODEL.terms(X, q, draws(1, 3, LATENTS)), gradient=estimator).sum().backward()
        largest = max(float(value.grad.abs().max()) for value in (q.mean, q.scale_tril))
        assert (largest < 1e-12) == (estimator != "standard"), estimator


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_dreg_is_unbiased_for_every_beta(beta: float) -> None:
    """z ~ N(0, 1), x|z ~ N(1.3 z, 1/2), x = 0.9, q = N(0.2, 0.9^2), K = 2, by integration."""
    axis = torch.linspace(-8, 8, 400, dtype=torch.float64)
    density = StandardNormal(1).log_prob(axis[:, None]).exp() * (axis[1] - axis[0])
    noise = torch.cartesian_prod(axis, axis).T.unsqueeze(-1)  # (K, points, L)
    weight = torch.cartesian_prod(density, density).prod(-1)
    found = []
    for estimator in ("standard", "dreg"):
        parameters = torch.tensor([0.2, math.log(0.9)], dtype=torch.float64, requires_grad=True)
        shape = (noise.shape[1], 1)
        q = DiagonalNormal(parameters[0].expand(shape), parameters[1].exp().expand(shape))
        z = q.transform(noise)
        recon = (0.9 - 1.3 * z[..., 0]).square()
        bound = -iwae(Terms(recon, z, q, StandardNormal(1)), beta, estimator)
        (bound * weight).sum().backward()
        found.append(parameters.grad)
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-10)
    if beta == 0.5:
        expected = torch.tensor([0.663, -0.958], dtype=torch.float64)
        torch.testing.assert_close(found[1], expected, rtol=0, atol=5e-4)


@pytest.mark.parametrize("kind", ["diagonal", "full", "flow"])
@pytest.mark.parametrize("estimator", ["stl", "dreg"])
def test_each_estimator_is_its_formula(estimator: str, kind: str) -> None:
    """The gradient of stl is -sum_k v_k D_k and that of dreg is -sum_k v_k^2 D_k.

    v_k are the weights, normalized to sum to one. D_k = d log w_k / dz_k dz_k / d phi is the path
    derivative with respect to the parameters of the posterior.
    """
    posterior, x = some_posterior(kind, LATENTS), draws(3, 1, 2, 2, seed=7)
    parameters = dict(posterior.named_parameters())
    pixels = X.expand(3, -1, -1, -1)
    iwae(
        MODEL.terms(pixels, posterior(x), draws(4, 3, LATENTS)), gradient=estimator
    ).sum().backward()

    z = posterior(x).transform(draws(4, 3, LATENTS))
    point = z.detach().requires_grad_()
    log_weights = (
        StandardNormal(LATENTS).log_prob(point)
        - posterior(x).log_prob(point)
        - MODEL.recon(pixels, point)
    )
    (slope,) = torch.autograd.grad(log_weights.sum(), point)
    weights = log_weights.detach().softmax(0).unsqueeze(-1)
    weights = weights if estimator == "stl" else weights**2
    expected = torch.autograd.grad(z, list(parameters.values()), grad_outputs=-weights * slope)
    for (name, parameter), value in zip(parameters.items(), expected, strict=True):
        torch.testing.assert_close(
            parameter.grad, value, rtol=1e-8, atol=1e-10, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_a_learned_priors_gradient_is_the_standard_one() -> None:
    found = []
    for estimator in ("standard", "dreg", "stl"):
        mean = draws(3, LATENTS, seed=8).requires_grad_()
        prior = Mixture(
            torch.full((3,), -math.log(3), dtype=torch.float64),
            DiagonalNormal(mean, mean.detach().exp()),
        )
        iwae(
            MODEL.terms(X, near(MODEL, X), draws(5, 3, LATENTS), prior), gradient=estimator
        ).sum().backward()
        found.append(mean.grad)
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found[2], found[0], rtol=1e-10, atol=1e-10)


def test_the_objective_anneals_and_refuses_another_gradient() -> None:
    terms = MODEL.terms(X, near(MODEL, X), draws(5, 3, LATENTS))
    objective = IWAE(5, beta=0.8, annealing=Linear(10))
    assert objective.num_samples == 5
    torch.testing.assert_close(objective(terms, 5), iwae(terms, 0.4))
    with pytest.raises(
        ValueError, match=r"^objective.gradient=path: must be one of standard, stl, dreg"
    ):
        IWAE(5, "path")
