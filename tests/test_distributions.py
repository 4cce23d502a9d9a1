"""Densities and KL divergences in float64.

The references are torch.distributions, quadrature and Monte Carlo.
"""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, distributions, nn

from vae_lightning.distributions import (
    STD_FLOOR,
    Bernoulli,
    DiagonalNormal,
    DiagonalNormalPosterior,
    SquaredError,
    SquaredErrorLikelihood,
    StandardNormal,
    kl_diagonal_normals,
    kl_divergence,
    kl_to_standard_normal,
)
from vae_lightning.objectives import Terms

torch.manual_seed(0)
MEAN, STD = torch.randn(5, 3, dtype=torch.float64), torch.rand(5, 3, dtype=torch.float64) * 3 + 0.1
MEAN1, STD1 = (
    torch.randn(5, 3, dtype=torch.float64),
    torch.rand(5, 3, dtype=torch.float64) * 3 + 0.1,
)


def test_kl_to_standard_normal_is_torch_distributions() -> None:
    expected = distributions.kl_divergence(
        distributions.Normal(MEAN, STD),
        distributions.Normal(torch.zeros_like(MEAN), torch.ones_like(STD)),
    ).sum(-1)
    torch.testing.assert_close(kl_to_standard_normal(MEAN, STD), expected, rtol=1e-12, atol=1e-12)


def test_kl_of_diagonal_normals_is_torch_distributions_and_contains_the_standard_normal() -> None:
    expected = distributions.kl_divergence(
        distributions.Normal(MEAN, STD), distributions.Normal(MEAN1, STD1)
    ).sum(-1)
    torch.testing.assert_close(
        kl_diagonal_normals(MEAN, STD, MEAN1, STD1), expected, rtol=1e-12, atol=1e-12
    )
    special = kl_diagonal_normals(MEAN, STD, torch.zeros_like(MEAN), torch.ones_like(STD))
    torch.testing.assert_close(kl_to_standard_normal(MEAN, STD), special, rtol=1e-12, atol=1e-12)


def test_kl_by_quadrature() -> None:
    z = torch.linspace(-40, 40, 400_001, dtype=torch.float64)[None, :, None].transpose(
        0, 1
    )  # (points, 1, 1)
    q, p = DiagonalNormal(MEAN[:1, :1], STD[:1, :1]), DiagonalNormal(MEAN1[:1, :1], STD1[:1, :1])
    density = q.log_prob(z).exp()
    integral = torch.trapezoid((density * (q.log_prob(z) - p.log_prob(z)))[:, 0], z[:, 0, 0])
    assert float(torch.trapezoid(density[:, 0], z[:, 0, 0])) == pytest.approx(1, abs=1e-10)
    assert float(integral) == pytest.approx(float(kl_divergence(q, p)), abs=1e-8)


@pytest.mark.slow
def test_kl_divergence_without_closed_form_is_unbiased() -> None:
    @dataclass(frozen=True)
    class Shifted:
        """A prior that no closed form knows."""

        def log_prob(self, z: Tensor) -> Tensor:
            return StandardNormal(3).log_prob(z - 1)

    q = DiagonalNormal(MEAN, STD)
    z = q.transform(
        torch.randn(200_000, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    )
    assert kl_divergence(q, Shifted()) is None
    estimate = Terms(z.new_zeros(z.shape[:2]), z, q, Shifted()).kl
    error = (q.log_prob(z) - Shifted().log_prob(z)).std(0) / math.sqrt(len(z))
    exact = kl_diagonal_normals(MEAN, STD, torch.ones_like(MEAN), torch.ones_like(STD))
    assert ((estimate - exact).abs() < 5 * error).all()
    assert not torch.equal(estimate, exact)


def test_log_prob_of_latents_is_torch_distributions() -> None:
    z = torch.randn(4, 5, 3, dtype=torch.float64)
    expected = distributions.Normal(MEAN, STD).log_prob(z).sum(-1)
    torch.testing.assert_close(
        DiagonalNormal(MEAN, STD).log_prob(z), expected, rtol=1e-12, atol=1e-12
    )
    expected = distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(StandardNormal(3).log_prob(z), expected, rtol=1e-12, atol=1e-12)


def test_samples_have_the_mean_and_std() -> None:
    samples = DiagonalNormal(MEAN, STD).transform(torch.randn(100_000, 5, 3, dtype=torch.float64))
    assert ((samples.mean(0) - MEAN).abs() < 5 * STD / math.sqrt(100_000)).all()
    assert ((samples.std(0) / STD - 1).abs() < 5 / math.sqrt(2 * 100_000)).all()


def test_squared_error_is_a_normal_of_variance_one_half() -> None:
    mean, x = (
        torch.rand(2, 5, 1, 28, 28, dtype=torch.float64),
        torch.rand(5, 1, 28, 28, dtype=torch.float64),
    )
    likelihood = SquaredError(mean)
    log_prob = distributions.Normal(mean, math.sqrt(0.5)).log_prob(x).sum((-3, -2, -1))
    torch.testing.assert_close(
        -likelihood.recon(x) - likelihood.log_normalizer, log_prob, rtol=1e-12, atol=1e-12
    )
    assert likelihood.log_normalizer == pytest.approx(448.7341, abs=5e-5)
    torch.testing.assert_close(likelihood.recon(x), ((x - mean) ** 2).sum((2, 3, 4)))


def test_bernoulli_is_torch_distributions_and_gray_pixels_give_the_expected_cross_entropy() -> None:
    logits = torch.randn(2, 5, 1, 4, 4, dtype=torch.float64) * 3
    x = torch.rand(5, 1, 4, 4, dtype=torch.float64)
    binary = (x > 0.5).double()
    expected = -distributions.Bernoulli(logits=logits).log_prob(binary).sum((2, 3, 4))
    torch.testing.assert_close(Bernoulli(logits).recon(binary), expected, rtol=1e-12, atol=1e-12)
    p = logits.sigmoid()
    gray = -(x * p.log() + (1 - x) * (1 - p).log()).sum((2, 3, 4))
    torch.testing.assert_close(Bernoulli(logits).recon(x), gray, rtol=1e-10, atol=1e-10)
    assert Bernoulli(logits).log_normalizer == 0
    torch.testing.assert_close(Bernoulli(logits).mean, p)


def test_gradients() -> None:
    mean, std = MEAN.clone().requires_grad_(), STD.clone().requires_grad_()
    assert torch.autograd.gradcheck(kl_to_standard_normal, (mean, std))
    assert torch.autograd.gradcheck(kl_diagonal_normals, (mean, std, MEAN1, STD1))
    outputs = torch.randn(1, 2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    x = torch.rand(2, 1, 3, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda value: SquaredError(value).recon(x), (outputs,))
    assert torch.autograd.gradcheck(lambda value: Bernoulli(value).recon(x), (outputs,))


class Constant(nn.Module):
    """A network that returns what it is given."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.outputs = nn.Parameter(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.outputs.expand(len(x), -1)


@settings(deadline=None, max_examples=50)
@given(
    mean=st.floats(-50, 50),
    raw=st.floats(-1e4, 1e4),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_posterior_is_finite_whatever_the_network_says(
    mean: float, raw: float, dtype: torch.dtype
) -> None:
    network = Constant(torch.tensor([mean, raw], dtype=dtype))
    q = DiagonalNormalPosterior(lambda _: network, 1)(torch.zeros(1, 1, 2, 2))
    kl = kl_divergence(q, StandardNormal(1))
    kl.sum().backward()
    assert q.std.dtype == torch.float32
    assert (q.std >= STD_FLOOR).all()  # STD_FLOOR as a float32
    assert torch.isfinite(kl).all()
    assert torch.isfinite(network.outputs.grad).all()


@settings(deadline=None, max_examples=30)
@given(log_std=st.floats(math.log(1e-6), math.log(1e6)), mean=st.floats(-50, 50))
def test_kl_is_finite_and_not_negative_over_the_whole_range(log_std: float, mean: float) -> None:
    std, location = torch.tensor([[math.exp(log_std)]]), torch.tensor([[mean]])
    kl = kl_to_standard_normal(location, std)
    exact = kl_to_standard_normal(location.double(), std.double())
    assert float(kl) >= -1e-6
    torch.testing.assert_close(kl.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("logit", [-100.0, 100.0])
def test_bernoulli_is_finite_at_extreme_logits(logit: float) -> None:
    logits = torch.full((1, 1, 1, 2, 2), logit, requires_grad=True)
    recon = Bernoulli(logits).recon(torch.tensor([[[[0.0, 1.0], [0.3, 1.0]]]]))
    recon.sum().backward()
    assert torch.isfinite(recon).all()
    assert torch.isfinite(logits.grad).all()


def test_shared_std_does_not_depend_on_x() -> None:
    posterior = DiagonalNormalPosterior(
        lambda outputs: nn.Sequential(nn.Flatten(), nn.Linear(4, outputs)), 3, True
    )
    q = posterior(torch.randn(6, 1, 2, 2))
    assert (q.std == q.std[0]).all()
    assert not (q.mean == q.mean[0]).all()


def test_unknown_mean_activation_is_refused_with_what_is_allowed() -> None:
    with pytest.raises(
        ValueError, match=r"likelihood.mean_activation=relu: must be one of sigmoid, identity"
    ):
        SquaredErrorLikelihood(lambda _: nn.Identity(), "relu")
