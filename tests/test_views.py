"""Pictures of a model: what stands where, for every posterior, prior and kind of model."""

import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.special import ndtr

from helpers import tiny
from vae_lightning.config.compose import choices
from vae_lightning.data.images import ImageData
from vae_lightning.data.sources.source import Part
from vae_lightning.evaluation.latents import information_per_dim, moments
from vae_lightning.explorer.encoded import encode
from vae_lightning.networks import Condition
from vae_lightning.pictures import KINDS, animate, view
from vae_lightning.plots import canvas
from vae_lightning.plots.figure import save_figure
from vae_lightning.plots.picture import Grid
from vae_lightning.plots.views import Viewer
from vae_lightning.training.assembly import build_module

X = torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(30) % 10


def viewer(*overrides: str, label: int | None = None, seed: int = 0) -> Viewer:
    return Viewer(
        build_module(tiny(*overrides)).eval(), X, LABELS, "data, model, -ELBO", seed, label
    )


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def cells(content: Grid, rows: int, columns: int) -> Tensor:
    """The images (R, C, H, W) in [0, 1] of a grid, which ends at the lower and right margins."""
    picture, scale = canvas.draw(content), 14
    step = 4 * scale + canvas.GAP
    pixels = torch.frombuffer(bytearray(picture.convert("L").tobytes()), dtype=torch.uint8)
    pixels = pixels.view(picture.height, picture.width)
    top = picture.height - canvas.MARGIN + canvas.GAP - rows * step
    black = (pixels[top : top + step * rows : step] < 255).all(
        0
    )  # each row's first line: names stand lower
    left = int(black.nonzero()[0])
    sheet = pixels[top : top + rows * step, left : left + columns * step]
    sheet = sheet.unfold(0, step, step).unfold(1, step, step)[
        ..., : 4 * scale : scale, : 4 * scale : scale
    ]
    return sheet / 255


REFUSED = {("flow", "vamp"), ("hierarchical", "vamp")}
PAIRS = set(itertools.product(choices("posterior"), choices("prior"))) - REFUSED


@pytest.mark.parametrize(("posterior", "prior"), sorted(PAIRS))
def test_every_kind_is_drawn_for_every_posterior_and_prior(posterior: str, prior: str) -> None:
    shown = viewer(f"posterior={posterior}", f"prior={prior}")
    for kind in KINDS:
        picture = canvas.draw(view(shown, kind, 9, "pca"))
        assert len(set(picture.convert("L").tobytes())) > 2, kind
    assert len(set(canvas.draw(shown.kl_bars()).convert("L").tobytes())) > 2


@pytest.mark.parametrize("likelihood", choices("likelihood"))
@pytest.mark.parametrize("model", choices("model"))
def test_every_model_and_likelihood_is_drawn(model: str, likelihood: str) -> None:
    for conditional in ("false", "true"):
        shown = viewer(
            f"model={model}", f"likelihood={likelihood}", f"model.conditional={conditional}"
        )
        assert canvas.draw(shown.samples(9)).width > 30
        assert canvas.draw(shown.traversals(3)).width > 30


def test_reconstructions_are_the_images_above_the_decoded_means() -> None:
    shown = viewer()
    found = cells(shown.reconstructions(10), 2, 10)
    means = shown.module.encoder(X[:10]).mean
    torch.testing.assert_close(found[0], X[:10, 0], rtol=0, atol=0.5 / 255 + 1e-6)
    torch.testing.assert_close(
        found[1], shown.module.decoder(means[None]).mean[0, :, 0], rtol=0, atol=0.5 / 255 + 1e-6
    )


def test_samples_are_those_of_the_seed_and_a_conditional_model_draws_a_class_a_column() -> None:
    assert canvas.draw(viewer().samples()).tobytes() == canvas.draw(viewer().samples()).tobytes()
    assert (
        canvas.draw(viewer().samples()).tobytes() != canvas.draw(viewer(seed=1).samples()).tobytes()
    )
    shown = viewer("model.conditional=true")
    generator = torch.Generator().manual_seed(0)
    z, labels = torch.randn(100, 2, generator=generator), torch.arange(100) % 10
    torch.testing.assert_close(
        shown.decode(z, labels), shown.module.decoder(z[None], Condition(labels)).mean[0]
    )
    sevens = viewer("model.conditional=true", label=7)
    torch.testing.assert_close(
        sevens.decode(z, labels),
        shown.module.decoder(z[None], Condition(torch.full((100,), 7))).mean[0],
    )
    assert canvas.draw(sevens.samples()).tobytes() != canvas.draw(shown.samples()).tobytes()


def test_traversals_move_one_dimension_and_the_most_informative_comes_first() -> None:
    shown = viewer("model.latent_dim=3")
    kl, order = shown.information
    assert kl[order].tolist() == sorted(kl.tolist(), reverse=True)
    q = shown.module.encoder(X)
    exact = torch.distributions.kl_divergence(
        torch.distributions.Normal(q.mean, q.std), torch.distributions.Normal(0.0, 1.0)
    )
    torch.testing.assert_close(kl, exact.mean(0))
    found = cells(shown.traversals(5), 3, 5)
    center, spread = q.mean.mean(0), (q.mean.var(0) + q.std.square().mean(0)).sqrt()
    z = q.mean[:1].repeat(5, 1)
    z[:, order[0]] = center[order[0]] + torch.linspace(-3, 3, 5) * spread[order[0]]
    torch.testing.assert_close(
        found[0], shown.module.decoder(z[None]).mean[0, :, 0], rtol=0, atol=0.5 / 255 + 1e-6
    )


@pytest.mark.parametrize("prior", ["standard_normal", "mixture"])
@pytest.mark.parametrize("posterior", choices("posterior"))
def test_pictures_and_page_show_the_same_information(posterior: str, prior: str) -> None:
    """Both use information_per_dim, whose value depends on the prior."""
    images = (X * 255).round().to(torch.uint8)
    parts = {split: Part(images, LABELS) for split in ("train", "val", "test")}
    data = ImageData("tiny", parts, 10, "none", seed=0)
    module = build_module(tiny(f"posterior={posterior}", f"prior={prior}")).eval()
    shown, _ = Viewer(module, images / 255, LABELS, "title").information
    written = encode(module, data, len(images)).information
    assert torch.equal(shown, written)
    posteriors = module.encoder(images / 255)
    expected = information_per_dim(posteriors, module.prior(module.encoder))
    assert torch.equal(shown, expected)
    mean, std = moments(posteriors)
    is_kl = prior == "standard_normal" and posterior not in ("flow", "hierarchical")
    if is_kl:
        normal = torch.distributions.Normal
        value = torch.distributions.kl_divergence(normal(mean, std), normal(0.0, 1.0)).mean(0)
    else:
        value = 0.5 * (1 + mean.var(0, correction=0) / std.square().mean(0)).log()
    torch.testing.assert_close(shown, value)


def test_interpolation_is_spherical() -> None:
    start, end = torch.tensor([[3.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 3.0], [2.0, 2.0]])
    path = viewer().interpolation(start, end, 5)
    angle = torch.linspace(0, torch.pi / 2, 5)
    torch.testing.assert_close(
        path[0], 3 * torch.stack([angle.cos(), angle.sin()], dim=-1), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(
        path[1], torch.linspace(1, 2, 5)[:, None].expand(-1, 2)
    )  # parallel: straight
    torch.testing.assert_close(path[:, 0], start)
    torch.testing.assert_close(path[:, -1], end, atol=1e-6, rtol=0)


def test_the_manifold_is_the_plane_at_equal_steps_of_probability(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    shown = viewer()
    decode = Viewer.decode
    monkeypatch.setattr(
        Viewer, "decode", lambda self, z, labels: (seen.append(z), decode(self, z, labels))[1]
    )
    shown.manifold(5)
    right, up = ndtr(seen[0]).unflatten(0, (5, 5)).unbind(-1)
    torch.testing.assert_close(right[0], torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]))
    torch.testing.assert_close(up[:, 0], torch.tensor([0.9, 0.7, 0.5, 0.3, 0.1]))


def test_latents_are_projected_onto_their_first_components() -> None:
    shown = viewer("model.latent_dim=3")
    assert (
        canvas.draw(shown.latents("pca")).tobytes() != canvas.draw(shown.latents("tsne")).tobytes()
    )
    assert canvas.draw(viewer("model.latent_dim=1").latents()).width > 500


@pytest.mark.parametrize("kind", ["pdf", "svg"])
def test_vector_graphics_hold_the_axes_as_text_and_are_the_same_every_time(
    kind: str, tmp_path: Path
) -> None:
    shown = viewer()
    for number, picture in enumerate(
        (shown.latents(), shown.manifold(3), shown.kl_bars(), shown.traversals(3))
    ):
        paths = [tmp_path / f"{number}{name}.{kind}" for name in "ab"]
        for path in paths:
            save_figure(path, picture)
        content = paths[0].read_bytes()
        assert content == paths[1].read_bytes()
        assert content.startswith(b"%PDF" if kind == "pdf" else b"<?xml")
        if kind == "svg":
            assert picture.x_axis in content.decode()


def test_ticks_are_round_numbers() -> None:
    assert canvas.ticks(-3.1, 2.9) == [-2, 0, 2]
    assert canvas.ticks(0.02, 0.071) == [0.02, 0.03, 0.04, 0.05, 0.06, 0.07]
    assert canvas.ticks(-0.4, 812) == [0, 200, 400, 600, 800]


def test_the_animation_goes_from_each_image_to_the_next_and_back(tmp_path: Path) -> None:
    animate(tmp_path / "a.gif", viewer(), 3)
    with Image.open(io.BytesIO((tmp_path / "a.gif").read_bytes())) as picture:
        assert picture.n_frames > 20
        assert picture.size == (3 * (4 * 21 + canvas.GAP), 4 * 21 + canvas.GAP)
