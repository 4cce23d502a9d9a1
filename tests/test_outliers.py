"""AUROC and complexity on known values, and a Gaussian mixture of planted codes."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from vae_lightning.checks.errors import ConfigError
from vae_lightning.checks.ranges import check_value
from vae_lightning.config.compose import choices, compose
from vae_lightning.config.shapes import data_with_shape
from vae_lightning.data.images import ImageData
from vae_lightning.data.sources.source import Part
from vae_lightning.distributions import DiagonalNormal
from vae_lightning.evaluate import OPTIONS
from vae_lightning.evaluation import mixture, outliers
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

    fitted = mixture.fit_mixture(SimpleNamespace(encoder=encoder, latent_dim=2), data)
    z = fitted.sample(4000, torch.Generator().manual_seed(0))
    is_bright = z[:, 0] > 2.5
    expected = (data.images["train"].float().mean((1, 2, 3)) / 255 > middle).float().mean()
    assert float(is_bright.float().mean()) == pytest.approx(float(expected), abs=0.03)
    torch.testing.assert_close(z[is_bright].mean(0), torch.tensor([5.0, 1.0]), rtol=0, atol=0.03)
    assert float(z[~is_bright].std(0).max()) == pytest.approx(0.1, abs=0.02)


def test_a_mixture_is_fitted_to_a_random_part_of_sorted_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first half of the training images has codes around 0, the second half around 5."""
    monkeypatch.setattr(mixture, "MOST_CODES", 200)
    pixels = torch.zeros(600, 1, 2, 2, dtype=torch.uint8)
    pixels[300:] = 255
    labels = torch.arange(600) // 300
    parts = {split: Part(pixels, labels) for split in ("train", "val", "test")}
    data = ImageData("halves", parts, 100, "none", 0, conditional=True)
    seen: list[Tensor] = []

    def encoder(x: Tensor, condition: Condition) -> DiagonalNormal:
        assert condition.label is not None
        torch.testing.assert_close(x.mean((1, 2, 3)), condition.label.float())
        seen.append(condition.label)
        return DiagonalNormal(5 * x.mean((2, 3)), torch.full((len(x), 1), 0.1))

    module = SimpleNamespace(encoder=encoder, latent_dim=1)
    z = mixture.fit_mixture(module, data).sample(4000, torch.Generator().manual_seed(0))
    assert len(torch.cat(seen)) == 200
    assert float((z > 2.5).float().mean()) == pytest.approx(0.5, abs=0.1)
    again = mixture.fit_mixture(module, data).sample(4000, torch.Generator().manual_seed(0))
    assert torch.equal(z, again)


def test_only_data_sets_of_a_known_shape_can_be_compared_with() -> None:
    allowed = data_with_shape()
    assert set(choices("data")) - set(allowed) == {"arrays", "folder", "torchvision"}
    assert all(compose("config", [f"data={name}"]).data.image_shape for name in allowed)
    for name in allowed:
        check_value("against", name, OPTIONS["against"])
    with pytest.raises(
        ConfigError, match=r"^against=folder: must be one of digits, fashion_mnist,"
    ):
        check_value("against", "folder", OPTIONS["against"])


@pytest.mark.parametrize("name", ["folder", "arrays"])
def test_the_other_images_of_a_run_on_own_images_are_where_they_are_by_default(
    name: str, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAE_LIGHTNING_DATA", str(tiny_root))
    shape = "data.image_shape=[1,28,28]"
    cfg = compose("config", [f"data={name}", f"data.root={tmp_path / 'mine'}", shape])
    assert outliers.other_images(cfg, "mnist").images_in("test") == 130
