"""The exact optimum of the linear VAE: against its own formulas, autograd, and real MNIST."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.datasets import MNIST

from vae_lightning.config.compose import compose
from vae_lightning.evaluation.ppca import (
    LinearVAE,
    closed_form_terms,
    moments,
    optimum,
    parameters_of,
)
from vae_lightning.training.assembly import build_module


def some_images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.rand(12, 12, generator=generator) * 60
    return (
        (torch.rand(500, 12, generator=generator) @ mixing)
        .clamp(0, 255)
        .to(torch.uint8)[:, None, None]
    )


def test_moments_are_those_of_the_floats() -> None:
    images = some_images()
    x = images.flatten(1).double() / 255
    mean, covariance = moments(images)
    torch.testing.assert_close(mean, x.mean(0), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(covariance, torch.cov(x.T, correction=0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("beta", [0.05, 1.0])
@pytest.mark.parametrize("latent_dim", [1, 3, 12])
def test_optimum_has_the_terms_of_the_formulas(latent_dim: int, beta: float) -> None:
    """recon = discarded eigenvalues + k sigma^2, KL = 1/2 sum log(lambda / sigma^2)."""
    images = some_images() // 2
    eigenvalues = torch.linalg.eigvalsh(moments(images)[1]).flip(0)
    variance = beta / 2
    used = eigenvalues[:latent_dim][eigenvalues[:latent_dim] > variance]
    recon, kl = closed_form_terms(optimum(images, latent_dim, beta), images)
    assert recon == pytest.approx(
        float(eigenvalues[len(used) :].sum() + len(used) * variance), rel=1e-9
    )
    assert kl == pytest.approx(float(0.5 * (used / variance).log().sum()), abs=1e-9)


def test_no_other_parameters_are_better() -> None:
    images = some_images()
    exact = optimum(images, 2)
    best = sum(closed_form_terms(exact, images))
    generator = torch.Generator().manual_seed(1)
    for scale in (1e-3, 1e-2, 1e-1):
        for _ in range(20):
            step = (
                torch.randn(value.shape, generator=generator, dtype=torch.float64)
                for value in exact
            )
            other = LinearVAE(
                *(value + scale * change for value, change in zip(exact, step, strict=True))
            )
            moved = LinearVAE(*other[:4], other.std.abs())
            assert sum(closed_form_terms(moved, images)) > best


@pytest.mark.slow
@pytest.mark.parametrize(
    ("latent_dim", "recon", "kl", "test_loss"),
    [
        (2, 44.8669, 2.1691, 46.8607),
        (16, 29.3976, 9.5574, 38.7024),
        (32, 28.6965, 10.1743, 38.6184),
    ],
)
def test_mnist(
    mnist_root: Path, latent_dim: int, recon: float, kl: float, test_loss: float
) -> None:
    """Values by independent linear algebra on the MNIST files, to every digit shown."""
    exact = optimum(MNIST(mnist_root).data, latent_dim)
    assert closed_form_terms(exact, MNIST(mnist_root).data) == pytest.approx((recon, kl), abs=6e-5)
    assert sum(closed_form_terms(exact, MNIST(mnist_root, train=False).data)) == pytest.approx(
        test_loss, abs=6e-5
    )


@pytest.mark.parametrize(
    "change", ["model=mlp", "posterior.shared_std=false", "likelihood.mean_activation=sigmoid"]
)
def test_another_model_has_no_such_optimum(change: str) -> None:
    cfg = compose("config", ["experiment=ppca", change])
    with pytest.raises(ValueError, match=r"callbacks=ppca: requires model=linear"):
        parameters_of(build_module(cfg))
