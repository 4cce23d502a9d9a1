"""Figures about codes and pictures, each on a case whose value is known."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vae_lightning.config.compose import compose
from vae_lightning.distributions import DiagonalNormal, FullNormal, StandardNormal, kl_divergence
from vae_lightning.evaluation import classifier, latents, samples
from vae_lightning.training.assembly import build_data

GENERATOR = torch.Generator().manual_seed(0)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR, dtype=torch.float64)


@pytest.mark.parametrize("full", [False, True])
def test_information_and_marginal_kl_add_up_to_the_mean_kl(full: bool) -> None:
    mean, std = normal(3000, 2), normal(3000, 2).exp() * 0.3
    posterior = FullNormal(mean, torch.diag_embed(std)) if full else DiagonalNormal(mean, std)
    z = posterior.transform(normal(1, 3000, 2))[0]
    found = latents.surgery(posterior, StandardNormal(2), z)
    ratio = posterior.log_prob(z[None])[0] - StandardNormal(2).log_prob(z)
    assert found.information + found.marginal_kl == pytest.approx(float(ratio.mean()), abs=1e-9)
    exact = float(kl_divergence(posterior, StandardNormal(2)).mean())
    assert abs(found.information + found.marginal_kl - exact) < 5 * float(ratio.std()) / math.sqrt(
        3000
    )
    assert 0 < found.information < math.log(3000)


def test_posteriors_that_are_all_the_same_hold_no_information_and_those_apart_all_of_it() -> None:
    same = DiagonalNormal(torch.ones(200, 3).double(), torch.full((200, 3), 0.5).double())
    assert latents.surgery(
        same, StandardNormal(3), same.transform(normal(1, 200, 3))[0]
    ).information == pytest.approx(0)
    apart = DiagonalNormal(torch.arange(200.0).double()[:, None] * 100, torch.ones(200, 1).double())
    found = latents.surgery(apart, StandardNormal(1), apart.transform(normal(1, 200, 1))[0])
    assert found.information == pytest.approx(math.log(200))


def test_readers_find_a_planted_label_and_nothing_where_there_is_none() -> None:
    labels = torch.arange(1000) % 10
    code = torch.nn.functional.one_hot(labels).double() + 0.01 * normal(1000, 10)
    noise = normal(1000, 10)
    for read in (latents.linear_probe, latents.nearest_neighbors):
        assert read(code[:800], labels[:800], code[800:], labels[800:]) == 1
        assert read(noise[:800], labels[:800], noise[800:], labels[800:]) < 0.2


def test_frechet_distance_is_that_of_normals() -> None:
    first, second = normal(200_000, 3), 2 * normal(200_000, 3) + torch.tensor([1.0, 0.0, -1.0])
    assert samples.frechet_distance(first, first) == pytest.approx(0, abs=1e-9)
    assert samples.frechet_distance(first, second) == pytest.approx(
        2 + 3 * (1 + 4 - 2 * 2), rel=0.02
    )
    rotation, _ = torch.linalg.qr(normal(3, 3))
    assert samples.frechet_distance(first @ rotation, second @ rotation) == pytest.approx(
        samples.frechet_distance(first, second)
    )


def test_precision_and_recall_of_planted_samples() -> None:
    real = normal(1500, 4)
    assert samples.overlap(real, real) == (1, 1)
    assert samples.overlap(real, real + 100) == (0, 0)
    both = torch.cat([real, real + 100])  # half of the samples are wrong, no real image is missed
    found = samples.overlap(real, both)
    assert (found.precision, found.recall) == (0.5, 1)
    narrow = 0.01 * normal(1500, 4)  # every sample is good, most real images are missed
    found = samples.overlap(real, narrow)
    assert found.precision == 1
    assert found.recall < 0.05


def test_the_classifier_learns_its_images_and_is_kept(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(classifier, "EPOCHS", 20)
    cfg = compose("config", [f"data.root={tiny_root}", "data.val_size=100", "data.batch_size=100"])
    data = build_data(cfg)
    state = torch.get_rng_state()
    model = classifier.classifier(data, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), state)
    assert classifier.accuracy(model, data.images["test"], data.labels["test"]) > 0.95
    (kept,) = (tmp_path / "vae_lightning").iterdir()
    written = kept.stat().st_mtime_ns
    again = classifier.classifier(data, torch.device("cpu"))
    assert kept.stat().st_mtime_ns == written
    x = data.images["test"].float() / 255
    torch.testing.assert_close(classifier.features_of(again, x), classifier.features_of(model, x))


def test_reconstruction_error_on_known_images() -> None:
    x = torch.rand(5, 1, 28, 28, generator=GENERATOR)
    same = samples.reconstruction_error(x, x.clone())
    assert (same["mse"], same["ssim"]) == (0, pytest.approx(1, abs=1e-5))
    off = samples.reconstruction_error(x * 0.5, x * 0.5 + 0.1)
    assert off["mse"] == pytest.approx(0.01, rel=1e-4)
    assert off["psnr"] == pytest.approx(20, rel=1e-4)
    assert 0 < off["ssim"] < 1
