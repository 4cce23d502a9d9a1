"""The loss is the seed's, and the bound is a bound: the derivation's identities in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, distributions

from vae_lightning.distributions import DiagonalNormal, SquaredError, StandardNormal
from vae_lightning.objectives import ELBO, Terms, elbo

BATCH, LATENTS = 7, 3


def seed_loss_function(recon: Tensor, x: Tensor, mu: Tensor, std: Tensor) -> Tensor:
    """The seed document's loss: summed squared error and -1/2 sum(1 + 2 log std - mean^2 - std^2)."""
    return F.mse_loss(recon, x, reduction="sum") - 0.5 * torch.sum(1 + 2 * torch.log(std) - mu.pow(2) - std.pow(2))


def some_terms(dtype: torch.dtype, samples: int = 1) -> tuple[Terms, Tensor, Tensor, DiagonalNormal]:
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(BATCH, 1, 28, 28, generator=generator, dtype=torch.float64).to(dtype)
    mean = torch.rand(samples, BATCH, 1, 28, 28, generator=generator, dtype=torch.float64).to(dtype)
    q = DiagonalNormal(
        torch.randn(BATCH, LATENTS, generator=generator, dtype=torch.float64).to(dtype),
        (torch.rand(BATCH, LATENTS, generator=generator, dtype=torch.float64) + 0.1).to(dtype),
    )
    z = q.rsample(torch.randn(samples, BATCH, LATENTS, generator=generator, dtype=torch.float64).to(dtype))
    return Terms(SquaredError(mean).recon(x), z, q, StandardNormal()), x, mean, q


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batch_size_times_the_loss_is_the_seeds(dtype: torch.dtype) -> None:
    terms, x, mean, q = some_terms(dtype)
    loss = elbo(terms).mean()
    torch.testing.assert_close(BATCH * loss, seed_loss_function(mean[0], x, q.mean, q.std), rtol=1e-6, atol=0)


def test_beta_weights_the_kl_alone() -> None:
    terms, *_ = some_terms(torch.float64, samples=4)
    assert elbo(terms).shape == (BATCH,)
    torch.testing.assert_close(elbo(terms, 0.0), terms.recon.mean(0))
    torch.testing.assert_close(elbo(terms, 4.0) - elbo(terms, 1.0), 3 * terms.kl)
    torch.testing.assert_close(ELBO(2.5)(terms, step=10), elbo(terms, 2.5))
    assert ELBO(2.5).beta_at(10) == 2.5


def test_log_p_is_the_bound_plus_the_kl_to_the_true_posterior() -> None:
    """log p(x) = Lb + KL(q(z|x) || p(z|x)) for any q, in the linear-Gaussian model, where all three are known.

    x = W z + b + noise of variance 1/2: p(x) = N(b, W W' + I/2), p(z|x) = N(M^-1 W'(x - b), M^-1 / 2), M = W'W + I/2.
    """
    generator = torch.Generator().manual_seed(4)
    size, variance = 6, 0.5
    weight = torch.randn(size, LATENTS, generator=generator, dtype=torch.float64)
    bias = torch.randn(size, generator=generator, dtype=torch.float64)
    x = torch.randn(BATCH, size, generator=generator, dtype=torch.float64)
    _, _, _, q = some_terms(torch.float64)

    identity = torch.eye(size, dtype=torch.float64)
    log_p = distributions.MultivariateNormal(bias, weight @ weight.T + variance * identity).log_prob(x)
    precision = weight.T @ weight + variance * torch.eye(LATENTS, dtype=torch.float64)
    posterior = distributions.MultivariateNormal(
        (x - bias) @ weight @ precision.inverse(), variance * precision.inverse()
    )
    gap = distributions.kl_divergence(distributions.MultivariateNormal(q.mean, torch.diag_embed(q.std**2)), posterior)

    # E_q ||x - W z - b||^2 in closed form stands for the samples
    error = (x - q.mean @ weight.T - bias).square().sum(-1) + (q.std**2 * weight.square().sum(0)).sum(-1)
    recon = error[None]
    lower_bound = -elbo(Terms(recon, q.mean[None], q, StandardNormal())) - size / 2 * math.log(math.pi)

    torch.testing.assert_close(lower_bound + gap, log_p, rtol=1e-10, atol=1e-10)
    assert (lower_bound < log_p).all()


def test_sampled_recon_is_unbiased_for_its_closed_form() -> None:
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(4, LATENTS, generator=generator, dtype=torch.float64)
    q = some_terms(torch.float64)[3]
    x = torch.randn(BATCH, 1, 1, 4, generator=generator, dtype=torch.float64)
    z = q.rsample(torch.randn(100_000, BATCH, LATENTS, generator=generator, dtype=torch.float64))
    recon = SquaredError((z @ weight.T)[:, :, None, None]).recon(x)
    exact = (x[:, 0, 0] - q.mean @ weight.T).square().sum(-1) + (q.std**2 * weight.square().sum(0)).sum(-1)
    assert ((recon.mean(0) - exact).abs() < 5 * recon.std(0) / math.sqrt(len(recon))).all()
