"""AUROC and complexity on known values, and a Gaussian mixture of planted codes."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from vae_lightning.config.compose import compose
from vae_lightning.distributions import DiagonalNormal
from vae_lightning.evaluation import outliers
from vae_lightning.evaluation.mixture import fit_mixture
from vae_lightning.networks import UNCONDITIONAL, Condition
from vae_lightning.training.assembly import build_data

GENERATOR = torch.Generator().manual_seed(0)


def scores(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_auroc_counts_pairs() -> None:
    assert outliers.auroc(scores(1, 2, 3), scores(4, 5)) == 1
    assert outliers.auroc(scores(4, 5), scores(1, 2, 3)) == 0
    assert outliers.auroc(scores(1, 2), scores(1, 2)) == 0.5
    assert outliers.auroc(scores(1, 3), scores(2, 3)) == (0.5 + 0.75) / 2
    inside = torch.randn(20_000, generator=GENERATOR).double()
    outside = torch.randn(20_000, generator=GENERATOR).double() + 1
    exact = 0.5 * (1 + math.erf(0.5))  # P(b > a) for a ~ N(0, 1) and b ~ N(1, 1)
    assert outliers.auroc(inside, outside) == pytest.approx(exact, abs=0.01)


def test_complexity_corrects_a_likelihood_that_prefers_simple_images() -> None:
    noise = torch.randint(0, 256, (20, 1, 28, 28), dtype=torch.uint8, generator=GENERATOR)
    flat = torch.full((20, 1, 28, 28), 7, dtype=torch.uint8)
    of_noise, of_flat = outliers.complexity(noise), outliers.complexity(flat)
    assert float(of_noise.min()) > 28 * 28 * math.log(256)  # noise cannot be compressed
    assert float(of_flat.max()) < 0.2 * 28 * 28 * math.log(256)
    # a model of noise that gives flat images more probability than its own, but less than PNG does
    found = outliers.separate(of_noise - 10, of_flat + 10, noise, flat)
    assert found == {"auroc_nll": 0, "auroc_complexity": 1}


def test_images_of_another_shape_are_refused(tiny_root: Path) -> None:
    cfg = compose("config", [f"data.root={tiny_root}"])
    assert outliers.other_images(cfg, "mnist").images_in("test") == 130
    with pytest.raises(ValueError, match=r"^against=sprites: must have images of shape \[1, 28"):
        outliers.other_images(cfg, "sprites")


def test_a_mixture_is_fitted_to_the_codes(tiny_root: Path) -> None:
    """Codes around (0, 0) or (5, 1), depending on the image, with std 0.1."""
    data = build_data(
        compose("config", [f"data.root={tiny_root}", "data.val_size=100", "data.batch_size=100"])
    )
    middle = data.images["train"].float().mean() / 255

    def encoder(x: Tensor, _: Condition = UNCONDITIONAL) -> DiagonalNormal:
        is_bright = (x.mean((1, 2, 3)) > middle).float()[:, None]
        return DiagonalNormal(is_bright * torch.tensor([5.0, 1.0]), torch.full((len(x), 2), 0.1))

    mixture = fit_mixture(SimpleNamespace(encoder=encoder, latent_dim=2), data)
    z = mixture.sample(4000, torch.Generator().manual_seed(0))
    is_bright = z[:, 0] > 2.5
    expected = (data.images["train"].float().mean((1, 2, 3)) / 255 > middle).float().mean()
    assert float(is_bright.float().mean()) == pytest.approx(float(expected), abs=0.03)
    torch.testing.assert_close(z[is_bright].mean(0), torch.tensor([5.0, 1.0]), rtol=0, atol=0.03)
    assert float(z[~is_bright].std(0).max()) == pytest.approx(0.1, abs=0.02)
