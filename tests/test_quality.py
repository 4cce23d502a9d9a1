"""Metrics of latents and samples, each on a case whose value is known."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributions

from vae_lightning.config.compose import compose
from vae_lightning.distributions import (
    DiagonalNormal,
    FullNormal,
    Mixture,
    StandardNormal,
    kl_divergence,
)
from vae_lightning.evaluation import classifier, latents, samples
from vae_lightning.evaluation.batches import training_images
from vae_lightning.evaluation.needs import LeftOut
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
    monkeypatch.setattr(classifier, "EPOCHS", 10)
    cfg = compose("config", [f"data.root={tiny_root}", "data.val_size=100", "data.batch_size=100"])
    data = build_data(cfg)
    state = torch.get_rng_state()
    model = classifier.classifier(training_images(data), torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), state)
    assert classifier.accuracy(model, data.images["test"], data.labels["test"]) > 0.95
    (kept,) = (tmp_path / "vae_lightning").iterdir()
    written = kept.stat().st_mtime_ns
    again = classifier.classifier(training_images(data), torch.device("cpu"))
    assert kept.stat().st_mtime_ns == written
    x = data.images["test"].float() / 255
    torch.testing.assert_close(classifier.features_of(again, x), classifier.features_of(model, x))


def test_the_cache_file_of_the_classifier_depends_on_all_that_determines_its_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = torch.randint(0, 256, (20, 1, 4, 4), dtype=torch.uint8, generator=GENERATOR)
    labels = torch.arange(20) % 10
    path = classifier.cache_file(images, labels)
    assert classifier.cache_file(images.clone(), labels.clone()) == path
    other_images = images.clone()
    other_images[3, 0, 1, 2] += 1
    others = [
        classifier.cache_file(other_images, labels),
        classifier.cache_file(images.flip(0), labels),
        classifier.cache_file(images.view(20, 1, 2, 8), labels),
        classifier.cache_file(images, labels.roll(1)),
        classifier.cache_file(images, labels // 5),
    ]
    recipe = {"FEATURES": 32, "EPOCHS": 4, "BATCH": 64, "LEARNING_RATES": (1e-3,)}
    for module, name, value in (
        *((classifier, name, value) for name, value in recipe.items()),
        (torch, "__version__", "0.0.0"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            others.append(classifier.cache_file(images, labels))
    assert classifier.cache_file(images, labels) == path
    assert len({path, *others}) == 1 + len(others)


def test_a_classifier_that_has_died_is_trained_again_or_left_out(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(classifier, "EPOCHS", 10)
    monkeypatch.setattr(classifier, "LEARNING_RATES", (1e3, 2e-3))
    cfg = compose("config", [f"data.root={tiny_root}", "data.val_size=100", "data.batch_size=100"])
    data = build_data(cfg)
    training = training_images(data)
    model = classifier.classifier(training, torch.device("cpu"))
    assert classifier.accuracy(model, data.images["test"], data.labels["test"]) > 0.95
    black = training._replace(images=torch.zeros_like(training.images))
    with pytest.raises(LeftOut, match="requires a classifier that tells the images apart"):
        classifier.classifier(black, torch.device("cpu"))


def test_relabeled_images_do_not_reuse_the_classifier(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(classifier, "EPOCHS", 10)
    cfg = compose("config", [f"data.root={tiny_root}", "data.val_size=100", "data.batch_size=100"])
    data = build_data(cfg)
    classifier.classifier(training_images(data), torch.device("cpu"))
    data.labels = {split: 9 - labels for split, labels in data.labels.items()}
    model = classifier.classifier(training_images(data), torch.device("cpu"))
    assert len(list((tmp_path / "vae_lightning").iterdir())) == 2
    assert classifier.accuracy(model, data.images["test"], data.labels["test"]) > 0.95


@pytest.mark.parametrize("full", [False, True])
def test_information_per_dim_is_the_kl_under_the_standard_normal_and_a_channel_otherwise(
    full: bool,
) -> None:
    mean = normal(500, 3) * torch.tensor([0.1, 2.0, 1.0])
    std = torch.tensor([0.99, 0.1, 0.5]).double().expand(500, 3)
    q = FullNormal(mean, torch.diag_embed(std)) if full else DiagonalNormal(mean, std)
    exact = distributions.kl_divergence(
        distributions.Normal(mean, std), distributions.Normal(0.0, 1.0)
    )
    channel = 0.5 * (1 + mean.var(0, correction=0) / std[0].square()).log()
    learned = Mixture(torch.zeros(1).double(), DiagonalNormal(normal(1, 3), normal(1, 3).exp()))
    for prior, expected in ((StandardNormal(3), exact.mean(0)), (learned, channel)):
        found = latents.information_per_dim(q, prior)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        assert found.argsort(descending=True).tolist() == [1, 2, 0]


def test_a_dimension_that_is_the_same_for_all_images_has_no_information_under_a_learned_prior() -> (
    None
):
    q = DiagonalNormal(torch.full((5, 1), 7.0), torch.ones(5, 1))
    prior = Mixture(torch.zeros(1), DiagonalNormal(torch.full((1, 1), 7.0), torch.ones(1, 1)))
    assert float(latents.information_per_dim(q, prior)) == 0


def test_reconstruction_error_on_known_images() -> None:
    x = torch.rand(5, 1, 28, 28, generator=GENERATOR)
    same = samples.reconstruction_error([(x, x.clone())])
    assert (same["mse"], same["ssim"]) == (0, pytest.approx(1, abs=1e-5))
    assert str(same["psnr"]) == "is infinite"
    off = samples.reconstruction_error([(x * 0.5, x * 0.5 + 0.1)])
    assert off["mse"] == pytest.approx(0.01, rel=1e-4)
    assert off["psnr"] == pytest.approx(20, rel=1e-4)
    assert 0 < off["ssim"] < 1
    # only windows within the image count: 11 x 11 pixels at the 18 x 18 places of 28 x 28 pixels
    one, other = torch.rand(2, 1, 1, 11, 11, generator=GENERATOR)
    line = torch.exp(-((torch.arange(11) - 5) ** 2) / (2 * 1.5**2))
    weights = line.outer(line) / line.sum() ** 2

    def moment(a: Tensor, b: Tensor) -> Tensor:
        return (weights * a * b).sum() - (weights * a).sum() * (weights * b).sum()

    means = (weights * one).sum(), (weights * other).sum()
    ssim = (2 * means[0] * means[1] + 1e-4) * (2 * moment(one, other) + 9e-4)
    ssim /= (means[0] ** 2 + means[1] ** 2 + 1e-4) * (
        moment(one, one) + moment(other, other) + 9e-4
    )
    found = samples.reconstruction_error([(one, other)])["ssim"]
    assert found == pytest.approx(float(ssim), abs=1e-4)
    assert "ssim" not in samples.reconstruction_error([(x[..., :10], x[..., :10])])


def test_total_correlation_is_that_of_the_mixture_of_all_posteriors() -> None:
    """0 for a product of two mixtures, -1/2 log(1 - rho^2) for a correlated normal."""
    grid = torch.cartesian_prod(torch.arange(3.0), torch.arange(4.0)).double().repeat(100, 1)
    product = DiagonalNormal(grid, torch.tensor([0.2, 0.5]).double().expand_as(grid))
    z = product.transform(normal(1, *grid.shape))[0]
    assert latents.total_correlation(product, z) == pytest.approx(0, abs=1e-9)
    rho, std, count = 0.8, 0.4, 6000
    spread = torch.tensor([[1.0, rho], [rho, 1.0]]).double() - std**2 * torch.eye(2)
    mean = normal(count, 2) @ torch.linalg.cholesky(spread).T
    for q in (
        DiagonalNormal(mean, torch.full((count, 2), std).double()),
        FullNormal(mean, std * torch.eye(2).double().expand(count, 2, 2)),
    ):
        found = latents.total_correlation(q, q.transform(normal(1, count, 2))[0])
        assert found == pytest.approx(-0.5 * math.log(1 - rho**2), abs=0.03)
        found = latents.gaussian_total_correlation(q)
        assert found == pytest.approx(-0.5 * math.log(1 - rho**2), abs=0.03)


@pytest.mark.parametrize(("std", "expected"), [(0.3, 10.1), (0.1, 27.5)])
def test_what_the_two_estimates_of_total_correlation_are_if_it_is_zero(
    std: float, expected: float
) -> None:
    """q(z) = N(0, I) with 16 dimensions, known from 10,000 posteriors."""
    mean = math.sqrt(1 - std**2) * normal(10_000, 16)
    q = DiagonalNormal(mean, torch.full_like(mean, std))
    z = q.transform(normal(1, *mean.shape))[0]
    assert latents.total_correlation(q, z[:500]) == pytest.approx(expected, abs=0.5)
    assert latents.gaussian_total_correlation(q) == pytest.approx(0, abs=0.01)
