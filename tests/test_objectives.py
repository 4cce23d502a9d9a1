"""Objectives in float64: the default loss, the bound and the terms that modify it."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, distributions

from vae_lightning.distributions import DiagonalNormal, SquaredError, StandardNormal
from vae_lightning.objectives import (
    ELBO,
    GECO,
    Capacity,
    FreeBits,
    Terms,
    capacity_bound,
    elbo,
    free_bits_bound,
)

BATCH, LATENTS = 7, 3


def textbook_loss(recon: Tensor, x: Tensor, mu: Tensor, std: Tensor) -> Tensor:
    """The summed squared error plus KL, KL = -1/2 sum(1 + 2 log std - mean^2 - std^2)."""
    return F.mse_loss(recon, x, reduction="sum") - 0.5 * torch.sum(
        1 + 2 * torch.log(std) - mu.pow(2) - std.pow(2)
    )


def some_terms(
    dtype: torch.dtype, samples: int = 1
) -> tuple[Terms, Tensor, Tensor, DiagonalNormal]:
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(BATCH, 1, 28, 28, generator=generator, dtype=torch.float64).to(dtype)
    mean = torch.rand(samples, BATCH, 1, 28, 28, generator=generator, dtype=torch.float64).to(dtype)
    q = DiagonalNormal(
        torch.randn(BATCH, LATENTS, generator=generator, dtype=torch.float64).to(dtype),
        (torch.rand(BATCH, LATENTS, generator=generator, dtype=torch.float64) + 0.1).to(dtype),
    )
    z = q.transform(
        torch.randn(samples, BATCH, LATENTS, generator=generator, dtype=torch.float64).to(dtype)
    )
    return Terms(SquaredError(mean).recon(x), z, q, StandardNormal(3)), x, mean, q


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batch_size_times_the_loss_is_the_summed_squared_error_plus_kl(dtype: torch.dtype) -> None:
    terms, x, mean, q = some_terms(dtype)
    loss = elbo(terms).mean()
    torch.testing.assert_close(
        BATCH * loss, textbook_loss(mean[0], x, q.mean, q.std), rtol=1e-6, atol=0
    )


def test_beta_weights_the_kl_alone() -> None:
    terms, *_ = some_terms(torch.float64, samples=4)
    assert elbo(terms).shape == (BATCH,)
    torch.testing.assert_close(elbo(terms, 0.0), terms.recon.mean(0))
    torch.testing.assert_close(elbo(terms, 4.0) - elbo(terms, 1.0), 3 * terms.kl)
    torch.testing.assert_close(ELBO(2.5)(terms, step=10), elbo(terms, 2.5))
    assert ELBO(2.5).beta_at(10) == 2.5


def test_log_p_is_the_bound_plus_the_kl_to_the_true_posterior() -> None:
    """log p(x) = ELBO + KL(q(z|x) || p(z|x)) for any q.

    All three are known in the linear-Gaussian model x = W z + b + noise of variance 1/2:
    p(x) = N(b, W W' + I/2) and p(z|x) = N(M^-1 W'(x - b), M^-1 / 2) with M = W'W + I/2.
    """
    generator = torch.Generator().manual_seed(4)
    size, variance = 6, 0.5
    weight = torch.randn(size, LATENTS, generator=generator, dtype=torch.float64)
    bias = torch.randn(size, generator=generator, dtype=torch.float64)
    x = torch.randn(BATCH, size, generator=generator, dtype=torch.float64)
    _, _, _, q = some_terms(torch.float64)

    identity = torch.eye(size, dtype=torch.float64)
    log_p = distributions.MultivariateNormal(
        bias, weight @ weight.T + variance * identity
    ).log_prob(x)
    precision = weight.T @ weight + variance * torch.eye(LATENTS, dtype=torch.float64)
    posterior = distributions.MultivariateNormal(
        (x - bias) @ weight @ precision.inverse(), variance * precision.inverse()
    )
    gap = distributions.kl_divergence(
        distributions.MultivariateNormal(q.mean, torch.diag_embed(q.std**2)), posterior
    )

    # E_q ||x - W z - b||^2 in closed form stands for the samples
    error = (x - q.mean @ weight.T - bias).square().sum(-1) + (
        q.std**2 * weight.square().sum(0)
    ).sum(-1)
    recon = error[None]
    lower_bound = -elbo(Terms(recon, q.mean[None], q, StandardNormal(3))) - size / 2 * math.log(
        math.pi
    )

    torch.testing.assert_close(lower_bound + gap, log_p, rtol=1e-10, atol=1e-10)
    assert (lower_bound < log_p).all()


def test_sampled_recon_is_unbiased_for_its_closed_form() -> None:
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(4, LATENTS, generator=generator, dtype=torch.float64)
    q = some_terms(torch.float64)[3]
    x = torch.randn(BATCH, 1, 1, 4, generator=generator, dtype=torch.float64)
    z = q.transform(torch.randn(100_000, BATCH, LATENTS, generator=generator, dtype=torch.float64))
    recon = SquaredError((z @ weight.T)[:, :, None, None]).recon(x)
    exact = (x[:, 0, 0] - q.mean @ weight.T).square().sum(-1) + (
        q.std**2 * weight.square().sum(0)
    ).sum(-1)
    assert ((recon.mean(0) - exact).abs() < 5 * recon.std(0) / math.sqrt(len(recon))).all()


def test_the_kl_without_a_closed_form_is_the_mean_over_the_samples() -> None:
    class Shifted(StandardNormal):
        """A prior that no closed form knows."""

        def log_prob(self, z: Tensor) -> Tensor:
            return super().log_prob(z - 1)

    known, _, _, q = some_terms(torch.float64, samples=4)
    terms = Terms(known.recon, known.z, q, Shifted(LATENTS))
    assert terms.kl.shape == (BATCH,)
    torch.testing.assert_close(
        terms.kl, (q.log_prob(terms.z) - StandardNormal(LATENTS).log_prob(terms.z - 1)).mean(0)
    )
    assert (known.kl >= 0).all()
    torch.testing.assert_close(
        known.kl, Terms(known.recon[:1], known.z[:1], q, StandardNormal(LATENTS)).kl
    )


def test_free_bits_of_zero_are_the_elbo_and_many_are_a_constant() -> None:
    terms, *_ = some_terms(torch.float64, samples=2)
    torch.testing.assert_close(free_bits_bound(terms, 0.0, 1.5).mean(), elbo(terms, 1.5).mean())
    torch.testing.assert_close(
        free_bits_bound(terms, 50.0, 1.5), terms.recon.mean(0) + 1.5 * 50 * LATENTS
    )
    assert torch.equal(FreeBits(0.3, beta=1.5)(terms, 7), free_bits_bound(terms, 0.3, 1.5))


def test_free_bits_leave_a_dimension_alone_whose_mean_kl_is_below_them() -> None:
    """The dimensions have 0.02 and 2 nats; with 0.5 free, the first costs 0.5, without gradient."""
    mean = torch.tensor([[0.0, 2.0], [0.28, 2.0]], dtype=torch.float64).requires_grad_()
    q = DiagonalNormal(mean, torch.ones(2, 2, dtype=torch.float64))
    loss = free_bits_bound(Terms(torch.zeros(1, 2), mean[None], q, StandardNormal(2)), 0.5)
    assert loss.tolist() == pytest.approx([2.5, 2.5])
    loss.mean().backward()
    assert mean.grad[:, 0].tolist() == [0, 0]
    torch.testing.assert_close(mean.grad[:, 1], mean.detach()[:, 1] / 2)  # of 1/B sum_b mean^2 / 2


@pytest.mark.parametrize("capacity", [0.0, 100.0])
def test_capacity_pulls_the_mean_kl_towards_it(capacity: float) -> None:
    terms, _, _, q = some_terms(torch.float64, samples=2)
    distance = abs(float(terms.kl.mean()) - capacity)
    torch.testing.assert_close(
        capacity_bound(terms, capacity, 3.0), terms.recon.mean(0) + 3 * distance
    )
    assert torch.equal(Capacity(capacity, 3.0)(terms, 7), capacity_bound(terms, capacity, 3.0))
    mean = q.mean.clone().requires_grad_()
    free = Terms(terms.recon, terms.z, DiagonalNormal(mean, q.std), StandardNormal(LATENTS))
    Capacity(capacity, 3.0)(free, 0).mean().backward()
    torch.testing.assert_close(mean.grad, (3 if capacity == 0 else -3) * q.mean / BATCH)


def with_recon(recon: float) -> Terms:
    terms, *_ = some_terms(torch.float64)
    return Terms(
        torch.full((1, BATCH), recon, dtype=torch.float64), terms.z, terms.posterior, terms.prior
    )


def test_geco_weighs_recon_by_a_multiplier_that_grows_until_the_target_is_met() -> None:
    """A step adds rate * average to log lambda.

    average <- smoothing * average + (1 - smoothing) (recon - target) / target.
    """
    objective = GECO(target=20.0, rate=0.1, smoothing=0.5).double()
    terms = with_recon(30.0)
    torch.testing.assert_close(
        objective(terms, 0), terms.kl + 10
    )  # lambda = 1 until after the step
    assert float(objective.average) == pytest.approx(0.25)
    assert float(objective.log_multiplier) == pytest.approx(0.025)
    torch.testing.assert_close(
        objective(terms, 1), terms.kl + math.exp(0.025) * 10, rtol=1e-6, atol=0
    )
    assert float(objective.average) == pytest.approx(0.375)
    grown = float(objective.log_multiplier)
    assert grown == pytest.approx(0.0625)
    assert objective.weights(2) == {"lambda": pytest.approx(math.exp(0.0625))}
    for _ in range(30):
        objective(with_recon(10.0), 2)
    assert objective.log_multiplier < grown - 1
    assert objective.weights(2)["lambda"] < 1


def test_geco_stands_still_at_its_target_and_in_evaluation() -> None:
    objective = GECO(target=20.0, rate=0.1, smoothing=0.5).double()
    for _ in range(5):
        objective(with_recon(20.0), 0)
    assert float(objective.log_multiplier) == 0
    objective.eval()
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    value = objective(with_recon(30.0), 0)
    assert all(torch.equal(before[name], value) for name, value in objective.state_dict().items())
    assert torch.equal(value, objective(with_recon(30.0), 9))


def test_geco_limits_a_step_and_its_multiplier_and_goes_on_from_its_state() -> None:
    objective = GECO(target=20.0, rate=0.1, smoothing=0.0).double()
    objective(with_recon(1e6), 0)
    assert float(objective.log_multiplier) == pytest.approx(0.1)
    for _ in range(200):
        objective(with_recon(1e6), 0)
    assert float(objective.log_multiplier) == 10
    other = GECO(target=20.0, rate=0.1, smoothing=0.0).double()
    assert set(other.state_dict()) == {"average", "log_multiplier"}
    other.load_state_dict(objective.state_dict())
    assert torch.equal(other(with_recon(30.0), 0), objective(with_recon(30.0), 0))


def test_geco_differentiates_the_terms_and_not_the_multiplier() -> None:
    recon = torch.full((1, BATCH), 30.0, dtype=torch.float64, requires_grad=True)
    terms = with_recon(30.0)
    objective = GECO(target=20.0, rate=1.0, smoothing=0.0).double()
    for expected in (1.0, math.exp(0.5), math.e):
        loss = objective(Terms(recon, terms.z, terms.posterior, terms.prior), 0).sum()
        (gradient,) = torch.autograd.grad(loss, recon)
        torch.testing.assert_close(gradient, torch.full_like(gradient, expected), rtol=1e-6, atol=0)
