"""Several stochastic layers, against the joint normal distribution of linear layers."""

import csv
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, distributions

from helpers import Command, tiny, tiny_model, train_run
from vae_lightning.distributions import (
    LayeredNormal,
    StandardNormal,
    StandardNormalPrior,
    kl_diagonal_normals,
    layer_kl_divergences,
)
from vae_lightning.networks import UNCONDITIONAL
from vae_lightning.objectives import Terms
from vae_lightning.training.summary import describe_kl

OF_LAYERS = "closed form of each layer given those above, samples of an image: "


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def linear_head(inputs: int, size: int, seed: int) -> Callable[[Tensor], Tensor]:
    """A layer whose mean is linear in its inputs and whose std is constant."""
    weight, raw = 0.7 * draws(size, inputs, seed=seed), draws(size, seed=seed + 1)
    return lambda x: torch.cat([x.double() @ weight.T, raw.expand(*x.shape[:-1], -1)], dim=-1)


def linear(seed: int, top: bool = True) -> tuple[LayeredNormal, distributions.MultivariateNormal]:
    """Layers of 1, 2 and 1 dimensions with linear means, and their joint normal distribution."""
    sizes = [1, 2, 1]
    context = draws(1, 3, seed=seed + 50) if top else None
    starts = [3, 4, 6] if top else [0, 1, 3]
    heads = [
        linear_head(start, size, seed + 7 * start)
        for start, size in zip(starts, sizes, strict=True)
    ]
    density = LayeredNormal(sizes, heads if top else [None, *heads[1:]], context, lambda: density)
    # z = b + A eps is affine in the noise
    offset = density.transform(torch.zeros(1, 1, 4).double())[0, 0]
    columns = density.transform(torch.eye(4).double()[:, None])[:, 0] - offset
    joint = distributions.MultivariateNormal(offset, columns.T @ columns)
    return density, joint


@pytest.mark.parametrize("top", [True, False])
def test_the_density_is_that_of_the_joint_normal_distribution(top: bool) -> None:
    density, joint = linear(0, top)
    z = 2 * draws(5, 1, 4, seed=9)
    torch.testing.assert_close(density.log_prob(z), joint.log_prob(z), rtol=1e-10, atol=1e-10)
    if top:
        torch.testing.assert_close(density.mean[0], joint.mean, rtol=0, atol=0.5)
    else:
        z = density.sample(200_000, torch.Generator().manual_seed(0)).double()
        torch.testing.assert_close(z.T.cov(), joint.covariance_matrix, rtol=0, atol=0.05)


def test_the_kl_of_the_layers_adds_up_to_that_of_the_joint_distributions() -> None:
    (q, joint_q), (p, joint_p) = linear(0), linear(100, top=False)
    z = q.transform(draws(200_000, 1, 4, seed=3))
    parts = layer_kl_divergences(q, p, z)
    assert len(parts) == 3
    exact = float(distributions.kl_divergence(joint_q, joint_p))
    assert float(torch.stack(parts).sum()) == pytest.approx(exact, rel=0.01)
    first = kl_diagonal_normals(
        q.layers(z)[0].mean[0],
        q.layers(z)[0].std[0],
        torch.zeros(1).double(),
        torch.ones(1).double(),
    )
    torch.testing.assert_close(parts[0], first)  # no layer is above it
    assert all(float(part) > 0 for part in parts)


def test_the_kl_to_a_standard_normal_has_layers_too() -> None:
    q, joint = linear(0)
    z = q.transform(draws(200_000, 1, 4, seed=3))
    standard = distributions.MultivariateNormal(torch.zeros(4).double(), torch.eye(4).double())
    exact = float(distributions.kl_divergence(joint, standard))
    total = torch.stack(layer_kl_divergences(q, StandardNormal(4), z)).sum()
    assert float(total) == pytest.approx(exact, rel=0.01)
    assert layer_kl_divergences(StandardNormal(4), q, z) == ()


@pytest.mark.parametrize("prior", ["hierarchical", "standard_normal"])
def test_the_sampled_kl_has_the_mean_of_the_layers(prior: str) -> None:
    torch.manual_seed(0)
    module, x, _ = tiny_model(tiny("posterior=hierarchical", f"prior={prior}"))
    with torch.no_grad():
        terms = module(x, torch.randn(20_000, len(x), 2))
        sampled = terms.log_q - terms.log_p
        error = 5 * sampled.std(0) / len(sampled) ** 0.5
        assert ((terms.kl - sampled.mean(0)).abs() < error + 1e-5).all()
    assert len(terms.layer_kl) == 2
    torch.testing.assert_close(terms.kl, sum(terms.layer_kl))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["model=mlp"], "closed form"),
        (["posterior=hierarchical"], f"{OF_LAYERS}1"),
        (["posterior=hierarchical", "prior=hierarchical", "objective=iwae"], f"{OF_LAYERS}5"),
        (
            [
                *("posterior=hierarchical", "prior=hierarchical"),
                *("model.latent_dim=3", "prior.upper_dims=[2]"),
            ],
            "Monte Carlo, samples of an image: 1",
        ),
        (["posterior=flow"], "Monte Carlo, samples of an image: 1"),
    ],
)
def test_the_kl_is_described_as_it_is_computed(overrides: list[str], expected: str) -> None:
    module, x, _ = tiny_model(tiny(*overrides))
    data = SimpleNamespace(inputs=lambda _split, index: (x[index], UNCONDITIONAL))
    assert describe_kl(module, data) == expected


def test_other_layers_have_a_sampled_kl() -> None:
    module, x, _ = tiny_model(
        tiny(
            "model.latent_dim=3",
            "posterior=hierarchical",
            "prior=hierarchical",
            "prior.upper_dims=[2]",
        )
    )
    terms: Terms = module(x, torch.randn(2, len(x), 3))
    assert terms.layer_kl == ()
    torch.testing.assert_close(terms.kl, (terms.log_q - terms.log_p).mean(0))


def test_detached_parameters_are_constants_and_z_is_not() -> None:
    module, x, _ = tiny_model(tiny("posterior=hierarchical", "prior=hierarchical"))
    q = module.encoder(x)
    z = torch.randn(2, len(x), 2, requires_grad=True)
    torch.testing.assert_close(q.detach().log_prob(z), q.log_prob(z))
    q.detach().log_prob(z).sum().backward()
    assert z.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in module.encoder.parameters())


def test_layers_that_leave_nothing_for_the_last_one_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^posterior.upper_dims=\[2\]: must add up to less than"):
        tiny_model(tiny("posterior=hierarchical", "posterior.upper_dims=[2]"))
    with pytest.raises(ValueError, match=r"^prior.upper_dims=\[1, 1\]: must add up to less than"):
        tiny_model(tiny("prior=hierarchical", "prior.upper_dims=[1, 1]"))
    assert isinstance(tiny_model(tiny("posterior=hierarchical"))[0].prior, StandardNormalPrior)


@pytest.mark.slow
def test_model_hierarchical_logs_the_kl_of_each_layer(
    train: Command, tmp_path: Path, tiny_root: Path
) -> None:
    run = train_run(
        train,
        tmp_path,
        tiny_root,
        "model=hierarchical",
        "data.val_size=100",
        "trainer.max_epochs=2",
    )
    for row in csv.DictReader((run / "metrics.csv").open()):
        for split in ("train", "val"):
            kl, top, lower = (float(row[f"{split}/{name}"]) for name in ("kl", "kl_1", "kl_2"))
            assert kl == pytest.approx(top + lower, rel=1e-6)
            assert min(top, lower) > 0
