"""Images from outside of the data set: files, PIL images, arrays, and a run that takes them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from helpers import tiny, tiny_model
from vae_lightning.checks.errors import ConfigError
from vae_lightning.data.splits import binarize
from vae_lightning.evaluation import batches
from vae_lightning.runs.images import Wanted, as_images, binarized
from vae_lightning.runs.run import Run

GRAY, COLOR = Wanted((1, 4, 6)), Wanted((3, 4, 6))
PIXELS = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10


def assert_pixels(found: Tensor, expected: np.ndarray) -> None:
    assert torch.equal(found, torch.from_numpy(expected).float() / 255)


def test_a_file_of_the_right_size_keeps_its_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path)
    for source in (path, str(path), Image.open(path), PIXELS, torch.from_numpy(PIXELS)):
        found, names = as_images(source, GRAY)
        assert names == ["a.png" if isinstance(source, str | Path) else ""]
        assert_pixels(found, PIXELS[None, None])
    colored, _ = as_images(path, COLOR)
    assert_pixels(colored, np.stack([PIXELS] * 3)[None])
    Image.fromarray(PIXELS.astype(np.uint16) * 257).save(tmp_path / "16 bits.png")
    assert_pixels(as_images(tmp_path / "16 bits.png", GRAY)[0], PIXELS[None, None])


def test_a_file_is_turned_upright_made_gray_resized_and_cropped(tmp_path: Path) -> None:
    turned = Image.fromarray(np.rot90(PIXELS))  # a camera that was turned, and says so
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    assert_pixels(as_images(tmp_path / "turned.png", GRAY)[0], PIXELS[None, None])

    wide = np.zeros((40, 200, 3), dtype=np.uint8)
    wide[:, 45:155] = (30, 60, 90)  # of the 200 x 40 pixels, the middle 60 x 40 and what is near
    for shape, color in (
        (COLOR, [30, 60, 90]),
        (GRAY, [round(0.299 * 30 + 0.587 * 60 + 0.114 * 90)]),
    ):
        found, _ = as_images(Image.fromarray(wide), shape)
        expected = torch.tensor(color)[:, None, None].expand(shape.shape) / 255
        torch.testing.assert_close(found[0], expected, rtol=0, atol=0)


def test_a_folder_an_array_file_and_a_list_hold_several_images(tmp_path: Path) -> None:
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    for number, name in enumerate(("b.png", "a.JPG", "sub/c.bmp")):
        Image.fromarray(np.full((4, 6), 50 * number, np.uint8)).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    found, names = as_images(tmp_path / "photos", GRAY)
    assert names == ["a.JPG", "b.png", "sub/c.bmp"]
    assert (found.mean((1, 2, 3)) * 255).round().tolist() == [50, 0, 100]

    two = np.stack([PIXELS, 255 - PIXELS])
    np.save(tmp_path / "two.npy", two)
    np.savez(tmp_path / "two.npz", images=two, label=np.arange(2))
    np.savez(tmp_path / "one.npz", anything=two)
    for name in ("two.npy", "two.npz", "one.npz"):
        found, names = as_images(tmp_path / name, GRAY)
        assert names == [f"{name}[0]", f"{name}[1]"]
        assert_pixels(found, two[:, None])

    found, names = as_images([PIXELS, tmp_path / "two.npy", Image.fromarray(PIXELS)], GRAY)
    assert names == ["", "two.npy[0]", "two.npy[1]", ""]
    assert_pixels(found, np.stack([PIXELS, *two, PIXELS])[:, None])
    assert as_images(torch.rand(COLOR.shape), COLOR)[0].shape == (1, *COLOR.shape)


def test_what_is_no_image_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    Image.fromarray(PIXELS).save(tmp_path / "good.png")
    (tmp_path / "text.png").write_text("text")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    (tmp_path / "text.npy").write_text("text")
    (tmp_path / "text.npz").write_text("text")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    np.savez(tmp_path / "several.npz", x=PIXELS, y=PIXELS)
    np.save(tmp_path / "large.npy", np.zeros((2, 5, 6), np.uint8))
    Image.fromarray(np.ones((4, 6), np.float32)).save(tmp_path / "float.tiff")
    for name, message in {
        "none.png": "must be an image, an array file (.npz",
        "empty": "must hold image files, but the folder has none",
        "text.png": "must be an image (cannot identify",
        "cut.png": "the image cannot be read (",
        "text.npy": "must hold arrays of numbers, without Python objects (",
        "text.npz": "must hold arrays of numbers, without Python objects (",
        "objects.npy": "must hold arrays of numbers, without Python objects (",
        "several.npz": "must hold an array images, has x, y",
        "large.npy": "must have shape (N, 1, 4, 6) or (N, 4, 6, 1) or (N, 4, 6), or be one image",
        "float.tiff": "the image cannot be read (it has 32 bits per channel; 8 or 16 are allowed)",
    }.items():
        with pytest.raises(ConfigError) as refused:
            as_images(tmp_path / name, GRAY, "images")
        assert str(refused.value).startswith(f"images={tmp_path / name}: {message}")
    with pytest.raises(ConfigError, match=r"^x: must have shape \(N, 3, 4, 6\) or \(N, 4, 6, 3\)"):
        as_images(torch.rand(4, 6), COLOR)


def test_new_images_are_binarized_like_test_images() -> None:
    images = torch.randint(0, 256, (50, 1, 4, 4), dtype=torch.uint8)
    x = images / 255
    as_test = binarize(images, "name", "test") / 255
    for kind, expected in {
        "none": x,
        "threshold": (images > 127).float(),
        "fixed": as_test,
        "dynamic": as_test,
    }.items():
        assert torch.equal(binarized(x, kind, "name"), expected)
        assert torch.equal(binarized(expected, kind, "name"), expected)
    run = tiny_run("likelihood=bernoulli", "data.binarization=dynamic")
    name = run.cfg.data.name
    assert torch.equal(run.encode(x).mean, run.encode(binarized(x, "dynamic", name)).mean)
    assert run.log_prob(x, 5).isfinite().all()


def tiny_run(*overrides: str) -> Run:
    cfg = tiny(*overrides)
    return Run(Path("run"), cfg, tiny_model(cfg)[0].eval(), "best", 0)


@pytest.mark.parametrize("posterior", ["diagonal_normal", "full_normal", "flow", "hierarchical"])
def test_batches_change_no_number(posterior: str, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = ("prior=hierarchical",) if posterior == "hierarchical" else ()
    run = tiny_run(f"posterior={posterior}", "model.conditional=true", *extra)
    x, label = torch.rand(23, 1, 4, 4), torch.arange(23) % 10

    def numbers() -> list[Tensor]:
        scored = run.score(x, 30, label)
        return [
            *run.encode(x, label),
            run.reconstruct(x, label),
            run.sample(23, seed=1, label=label),
            run.log_prob(x, 30, label),
            *(scored.nll, scored.recon, scored.kl),
        ]

    whole = numbers()
    monkeypatch.setattr(batches, "BATCH", 7)
    monkeypatch.setattr("vae_lightning.evaluation.scores.BATCH", 7)
    for one, other in zip(whole, numbers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert run.decode(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)).shape == (0, 1, 4, 4)


@pytest.mark.parametrize("prior", ["standard_normal", "mixture"])
def test_the_scores_are_the_terms_of_the_bound(prior: str) -> None:
    run = tiny_run(f"prior={prior}", "likelihood=gaussian")
    x = torch.rand(5, 1, 4, 4)
    scored = run.score(x, 400)
    torch.testing.assert_close(scored.nll, -run.log_prob(x, 400))
    assert torch.equal(scored.neg_elbo, scored.recon + scored.kl)
    # by Jensen's inequality, exactly so if the KL is the mean over the same draws
    slack = 0.3 if prior == "standard_normal" else 1e-9
    assert (scored.nll <= scored.neg_elbo + slack).all()
    if prior == "standard_normal":
        mean, std = run.encode(x)
        kl = 0.5 * (mean**2 + std**2 - 1 - 2 * std.log()).sum(1)
        torch.testing.assert_close(scored.kl, kl.double(), rtol=1e-5, atol=1e-6)
    assert tiny_run("likelihood=bernoulli", "likelihood.gray=true").score(x, 5).nll is None
