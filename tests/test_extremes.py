"""Extreme network outputs give finite values and gradients, in float32 and under bfloat16 autocast.

Densities are always float32.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vae_lightning.distributions import (
    BernoulliLikelihood,
    ContinuousBernoulliLikelihood,
    DiagonalNormalPosterior,
    DiscretizedLogisticLikelihood,
    FullNormalPosterior,
    GaussianLikelihood,
    LaplaceLikelihood,
    MixturePrior,
    SquaredErrorLikelihood,
    StandardNormalPrior,
    VampPrior,
)
from vae_lightning.distributions.flows import FlowPosterior, FlowPrior
from vae_lightning.objectives import ELBO, IWAE, MMD, TC, Objective, Terms

PRECISIONS = st.sampled_from(["32", "bf16"])
many = settings(deadline=None, max_examples=50, derandomize=True)


def autocast(precision: str) -> AbstractContextManager:
    return torch.autocast("cpu", dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


class Says(nn.Module):
    """A network with given outputs, in bfloat16 under autocast like those of a linear layer."""

    def __init__(self, outputs: Tensor, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.outputs, self.shape = nn.Parameter(outputs), shape

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.outputs.bfloat16() if torch.is_autocast_enabled("cpu") else self.outputs
        return outputs.expand(len(x), *self.shape)


class Drifting(nn.Module):
    """A network whose outputs depend on the image, also for pseudo-inputs."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.outputs = nn.Parameter(outputs)

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.outputs * (0.5 + x.flatten(1).mean(1, keepdim=True))
        return outputs.bfloat16() if torch.is_autocast_enabled("cpu") else outputs


def raw(std: float) -> float:
    """The network's output for a std: the inverse of softplus."""
    return std if std > 30 else math.log(math.expm1(std))


def posterior_of(kind: str, latent_dim: int, mean: float, std: float) -> nn.Module:
    rest = {"diagonal_normal": 0, "full_normal": latent_dim * (latent_dim - 1) // 2, "flow": 3}[
        kind
    ]
    lower = torch.full((rest,), min(std, 50.0))
    outputs = torch.cat(
        [torch.full((latent_dim,), mean), torch.full((latent_dim,), raw(std)), lower]
    )
    if kind == "flow":
        return FlowPosterior(
            lambda _: Drifting(outputs), latent_dim, transforms=2, hidden_dims=[6], context=3
        )
    return {"diagonal_normal": DiagonalNormalPosterior, "full_normal": FullNormalPosterior}[kind](
        lambda _: Drifting(outputs), latent_dim
    )


def priors(latent_dim: int) -> Iterator[nn.Module]:
    yield StandardNormalPrior(latent_dim)
    yield MixturePrior(latent_dim, components=3)
    yield VampPrior(3, [1, 2, 2])
    yield FlowPrior(latent_dim, transforms=2, hidden_dims=[6])


def assert_finite_gradients(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(
    "kind", ["diagonal_normal", "full_normal", pytest.param("flow", marks=pytest.mark.slow)]
)
@many
@given(
    mean=st.floats(-50, 50),
    log_std=st.floats(math.log(1e-6), math.log(1e6)),
    latent_dim=st.integers(1, 4),
    samples=st.integers(1, 3),
    images=st.integers(1, 3),
    precision=PRECISIONS,
)
def test_every_posterior_with_every_prior_is_finite(
    kind: str,
    mean: float,
    log_std: float,
    latent_dim: int,
    samples: int,
    images: int,
    precision: str,
) -> None:
    torch.manual_seed(0)
    posterior, x = (
        posterior_of(kind, latent_dim, mean, math.exp(log_std)),
        torch.rand(images, 1, 2, 2),
    )
    for prior in priors(latent_dim):
        if kind == "flow" and isinstance(prior, VampPrior):
            continue  # which check refuses
        posterior.zero_grad()
        with autocast(precision):
            q = posterior(x)
            z = q.transform(torch.randn(samples, images, latent_dim))
            terms = Terms(z.new_zeros(samples, images), z, q, prior(posterior))
            constant = q.detach().log_prob(z)
        for name, value in {
            "z": z,
            "q": terms.log_q,
            "p": terms.log_p,
            "kl": terms.kl,
            "constant": constant,
        }.items():
            assert value.dtype == torch.float32, name
            assert value.isfinite().all(), name
        (terms.kl.sum() + constant.sum() + terms.log_p.sum()).backward()
        assert_finite_gradients(posterior)
        assert_finite_gradients(prior)


@many
@given(
    mean=st.floats(-50, 50), log_std=st.floats(math.log(1e-6), math.log(1e6)), precision=PRECISIONS
)
def test_objectives_about_the_aggregate_are_finite(
    mean: float, log_std: float, precision: str
) -> None:
    torch.manual_seed(0)
    objectives: list[Objective] = [
        TC(6.0),
        MMD(100.0, 0.5),
        IWAE(2, "dreg"),
        IWAE(2, "stl"),
        ELBO(),
    ]
    objectives[0].dataset_size.fill_(100)
    for kind in ("diagonal_normal", "full_normal"):
        posterior = posterior_of(kind, 2, mean, math.exp(log_std))
        for objective in objectives:
            posterior.zero_grad()
            with autocast(precision):
                q = posterior(torch.rand(4, 1, 2, 2))
                z = q.transform(torch.randn(2, 4, 2))
                loss = objective(
                    Terms(z.square().sum(-1), z, q, StandardNormalPrior(2)(posterior)), 3
                )
            assert loss.dtype == torch.float32
            assert loss.isfinite().all(), objective
            loss.mean().backward()
            assert_finite_gradients(posterior)


LIKELIHOODS = {
    "squared_error": lambda network, _: SquaredErrorLikelihood(network, "identity"),
    "gaussian fixed": lambda network, scale: GaussianLikelihood(network, scale, "identity"),
    "gaussian learned": lambda network, _: GaussianLikelihood(network, "learned", "identity"),
    "gaussian optimal": lambda network, _: GaussianLikelihood(network, "optimal", "identity"),
    "gaussian per_pixel": lambda network, _: GaussianLikelihood(network, "per_pixel", "identity"),
    "laplace fixed": lambda network, scale: LaplaceLikelihood(network, scale, "identity"),
    "laplace optimal": lambda network, _: LaplaceLikelihood(network, "optimal"),
    "laplace per_pixel": lambda network, _: LaplaceLikelihood(network, "per_pixel"),
    "logistic fixed": lambda network, scale: DiscretizedLogisticLikelihood(
        network, scale, "identity"
    ),
    "logistic learned": lambda network, _: DiscretizedLogisticLikelihood(network, "learned"),
    "logistic per_pixel": lambda network, _: DiscretizedLogisticLikelihood(
        network, "per_pixel", "identity"
    ),
    "bernoulli": lambda network, _: BernoulliLikelihood(
        network, [1, 2, 2], gray=True, data_bias=True
    ),
    "continuous_bernoulli": lambda network, _: ContinuousBernoulliLikelihood(network, 1e-4),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
@many
@given(
    output=st.floats(-100, 100),
    second=st.floats(-100, 100),
    log_scale=st.floats(math.log(1e-6), math.log(1e6)),
    samples=st.integers(1, 3),
    images=st.integers(1, 3),
    precision=PRECISIONS,
)
def test_every_likelihood_is_finite(
    name: str,
    output: float,
    second: float,
    log_scale: float,
    samples: int,
    images: int,
    precision: str,
) -> None:
    def network(outputs: int) -> nn.Module:
        return Says(torch.tensor([output, second])[:outputs, None, None], (outputs, 2, 2))

    likelihood = LIKELIHOODS[name](network, math.exp(log_scale))
    with torch.no_grad():
        for key, parameter in likelihood.named_parameters():
            if key == "scale.raw":
                parameter.fill_(second)
    x = torch.tensor([[[0.0, 1.0], [77 / 255, 254 / 255]]]).expand(images, 1, 2, 2)
    with autocast(precision):
        pixels = likelihood(torch.zeros(samples, images, 3))
        recon, mean = pixels.recon(x), pixels.mean
    for value in (recon, mean):
        assert value.dtype == torch.float32
        assert value.isfinite().all()
    assert recon.shape == (samples, images)
    recon.sum().backward()
    assert_finite_gradients(likelihood)
    if name.split()[0] in ("logistic", "bernoulli"):
        assert (recon >= 0).all()
