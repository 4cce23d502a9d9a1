"""Every command works for few images of any height, width and number of channels, of one class."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.fork_server import ForkServer
from browser import Browser
from helpers import Command, tiny
from vae_lightning.data.shown import MOST_PIXELS, is_vector, lines, shown_count, visible
from vae_lightning.explorer.encoded import DECODED_PIXELS, SAMPLES, batch_size
from vae_lightning.exporting import graphs
from vae_lightning.pictures import animate
from vae_lightning.plots import canvas, figure
from vae_lightning.plots.picture import Bars, Grid, Scatter
from vae_lightning.plots.views import GRID_SIDE, MOST_BARS, Viewer
from vae_lightning.runs.run import Run
from vae_lightning.training.assembly import build_module
from vae_lightning.training.tensorboard import THUMBNAIL_SIDE, thumbnails

DATA_SET = """
import torch

class Made(torch.utils.data.Dataset):
    def __init__(self, root, train, shape, test_images):
        generator = torch.Generator().manual_seed(int(train))
        count = 8 if train else test_images
        size = (count, *shape)
        self.data = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
        self.targets = torch.zeros(count, dtype=torch.long)
"""
DATA_OPTIONS = """
defaults: [_images]
name: made
dataset:
  _target_: made.Made
  _partial_: true
  shape: ${data.image_shape}
  test_images: 1
fallback: null
classes: 1
batch_size: 4
val_size: 2
"""
# C, H, W; the model; latent dimensions; test images
RUNS = [
    ((1, 20, 30), "mlp", 2, 1),
    ((3, 30, 20), "conv", 1, 8),
    ((2, 9, 7), "resnet", 3, 2),
    ((4, 33, 65), "mlp", 300, 8),
    ((1, 1, 1), "conv", 2, 1),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data set and its options."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "conf" / "data").mkdir(parents=True)
    (folder / "made.py").write_text(DATA_SET)
    (folder / "conf" / "data" / "made.yaml").write_text(DATA_OPTIONS)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "model", "latents", "images"), RUNS)
def test_every_command_works_for_images_of_any_shape(
    shape: tuple[int, int, int],
    model: str,
    latents: int,
    images: int,
    folder: Path,
    train: Command,
    server: ForkServer,
    browser: Browser,
) -> None:
    name = "x".join(map(str, shape))
    done = train(
        "--config-dir=conf",
        "data=made",
        f"data.image_shape=[{','.join(map(str, shape))}]",
        f"data.dataset.test_images={images}",
        f"model={model}",
        "model.hidden_dims=[8]",
        f"model.latent_dim={latents}",
        "trainer.max_epochs=1",
        "accelerator=cpu",
        f"hydra.run.dir={name}",
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    run = folder / name
    assert ("collapse" in done.stdout + done.stderr) <= (images > 1)
    commands = [["pictures"], ["explore"], ["export", "format=safetensors"]]
    if latents == 2:
        commands.append(["verify", "count=1"])
    for command, *options in commands:
        done = server.run(command, f"run={name}", "trust=true", *options, cwd=folder)
        # an untrained q may be so wide that the grid is too coarse for verify, which then says so
        assert done.returncode in ((0, 1) if command == "verify" else (0,)), done.stderr
        assert "Traceback" not in done.stderr
    drawn = {path.stem for path in (run / "pictures").glob("*.png")}
    expected = {"reconstructions", "samples", "traversals", "kl_per_dimension"}
    expected |= {"manifold", "verify"} if latents == 2 else set()
    assert drawn == expected | ({"latents", "interpolations"} if images > 1 else set())
    if images == 1:
        done = server.run("pictures", f"run={name}", "kind=latents", "trust=true", cwd=folder)
        assert done.returncode == 2
        assert "kind=latents: requires two test images or more" in done.stderr
    (sprite,) = (run / "tensorboard").rglob("sprite.png")
    with Image.open(sprite) as sheet:
        assert sheet.width == sheet.height
        assert sheet.width % min(THUMBNAIL_SIDE, max(shape)) == 0
    assert_page(browser, run / "pictures" / "explore.html", shape)


def assert_page(browser: Browser, page: Path, shape: tuple[int, int, int]) -> None:
    """The page decodes as PyTorch, and shows the original in its colors and with its sides."""
    browser.open(page.as_uri(), "typeof difference === 'number'")
    assert browser.js("difference") < 1e-3
    canvas_size = browser.js("[original.width, original.height]")
    assert canvas_size == [shape[2], shape[1]]
    read = f"original.getContext('2d').getImageData(0, 0, {shape[2]}, {shape[1]}).data"
    shown = torch.tensor(browser.js(f"Array.from({read})")).unflatten(0, (*shape[1:], 4))
    pixels = torch.tensor(browser.js("Array.from(data.images.subarray(0, pixels))"))
    expected = 255 * visible(pixels.float().unflatten(0, shape) / 255)
    assert (shown[..., 3] == 255).all()
    assert (shown[..., :3] - expected.movedim(0, -1)).abs().max() <= 1
    sprite = browser.js("plane.sprites.from(0)")
    assert sprite[2] / sprite[3] == pytest.approx(shape[2] / shape[1])
    browser.js("document.querySelector('[value=decoded]').click()")
    browser.until("plane.tile.next > 2")


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")  # torch.export does not trace the checks
@pytest.mark.parametrize("form", ["onnx", "torch_export"])
def test_convolutions_of_odd_sizes_are_exported(form: str, tmp_path: Path) -> None:
    cfg = tiny("model=conv", "data.image_shape=[2,7,5]")
    run = Run(tmp_path, cfg, build_module(cfg).eval(), "best", 0)
    for file in graphs.write(run, form, tmp_path):
        assert 0 <= file.difference < 1e-5


def test_channels_are_gray_or_color_over_white_where_transparent() -> None:
    gray, alpha, color = torch.rand(1, 5, 4), torch.rand(1, 5, 4), torch.rand(3, 5, 4)
    torch.testing.assert_close(visible(gray), gray)
    torch.testing.assert_close(visible(color), color)
    torch.testing.assert_close(visible(torch.cat([gray, alpha])), alpha * gray + 1 - alpha)
    torch.testing.assert_close(visible(torch.cat([color, alpha])), alpha * color + 1 - alpha)
    assert torch.equal(visible(torch.cat([color, color])), color)
    assert torch.equal(visible(3 * gray - 1), (3 * gray - 1).clamp(0, 1))


def test_a_vector_is_drawn_as_a_line() -> None:
    slope = torch.tensor([0.0, 1.0]).view(1, 1, 2)
    picture = lines(slope, 11, 11)[0]  # from the lower left to the upper right
    assert ((picture.argmin(0) - (10 - torch.arange(11))).abs() <= 1).all()
    assert (picture == 0).sum(0).max() <= 2
    assert picture.sum() >= 11 * 9
    step = lines(torch.tensor([0.0, 0.0, 1.0, 1.0]).view(1, 1, 4), 20, 60)[0] == 0
    assert step[-1, :20].all()
    assert step[0, 41:].all()
    assert step.any(1).all()  # joined
    assert is_vector(slope)
    assert not is_vector(torch.zeros(1, 1, 1))
    assert canvas.to_image(slope).size == (224, 112)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_tiles_are_enlarged_to_a_size_and_never_shrunk(channels: int) -> None:
    for height, width, scale in ((28, 28, 2), (1, 1, 56), (4, 3, 14), (20, 30, 2), (64, 9, 1)):
        images = torch.rand(2, 3, channels, height, width)
        sheet = canvas.tile(images, 56)
        assert sheet.mode == ("L" if channels < 3 else "RGB")
        assert sheet.size == (3 * (width * scale + canvas.GAP), 2 * (height * scale + canvas.GAP))


@pytest.mark.parametrize("shape", [(1, 20, 30), (3, 7, 3), (4, 5, 200), (1, 100, 80)])
def test_thumbnails_are_square_and_hold_the_image(shape: tuple[int, int, int]) -> None:
    x = torch.rand(2, *shape)
    found, side = thumbnails(x), min(max(shape[1:]), THUMBNAIL_SIDE)
    assert found.shape == (2, 3 if shape[0] > 2 else 1, side, side)
    white = max(shape[1:]) ** 2 - shape[1] * shape[2]
    total = visible(x).sum((2, 3)) + white
    expected = total / max(shape[1:]) ** 2
    assert (found.mean((2, 3)) - expected).abs().max() < 0.01  # areas that shrink overlap a little
    assert torch.equal(
        thumbnails(torch.rand(1, 1, 28, 28).round()).unique(), torch.tensor([0.0, 1])
    )


class Constant(nn.Module):
    """A decoder of gray images of any size."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, z: Tensor) -> Tensor:
        return torch.zeros(len(z), *self.shape)


@pytest.fixture
def large() -> Viewer:
    """A viewer of images of 512x700 pixels; the networks see a corner of them."""
    module = build_module(tiny("posterior=diagonal_normal", "model.latent_dim=2")).eval()
    module.encoder.network = nn.Sequential(nn.AdaptiveAvgPool2d(4), module.encoder.network)
    module.decoder.network = Constant((1, 512, 700))
    return Viewer(module, torch.rand(30, 1, 512, 700), torch.zeros(30).long(), "title")


def test_grids_of_large_images_are_bounded(large: Viewer, tmp_path: Path) -> None:
    with torch.no_grad():
        for grid in (
            large.samples(),
            large.reconstructions(most=50),
            large.traversals(),
            large.interpolations(),
            large.manifold(),
        ):
            rows, columns, _, height, width = grid.images.shape
            assert rows * height <= GRID_SIDE, grid.title
            assert columns * width <= 1.1 * GRID_SIDE, grid.title
            assert max(figure.size(grid)) < 20
        assert large.samples(49).images.shape[:2] == (7, 7)  # as many as were asked for
        animate(tmp_path / "a.gif", large, None)
    with Image.open(tmp_path / "a.gif") as picture:
        assert max(picture.size) <= 4 * (700 + canvas.GAP)


def test_few_or_equal_images_are_drawn() -> None:
    for latents in (1, 2, 3):
        module = build_module(tiny(f"model.latent_dim={latents}")).eval()
        for count, x in ((1, torch.rand(1, 1, 4, 4)), (2, torch.zeros(2, 1, 4, 4))):
            shown = Viewer(module, x, torch.zeros(count).long(), "title")
            with torch.no_grad():
                grids = [shown.reconstructions(), shown.samples(), shown.traversals()]
                grids += [shown.interpolations()] if count > 1 else []
                assert all(grid.images.isfinite().all() for grid in grids)
                assert shown.reconstructions().images.shape[1] == count
                if count > 1:
                    assert "nan" not in "".join([shown.latents().x_axis, shown.latents().y_axis])
                    assert canvas.draw(shown.latents()).width > 500


def test_many_bars_and_many_labels_are_bounded() -> None:
    module = build_module(tiny("model.latent_dim=3000")).eval()
    shown = Viewer(module, torch.rand(9, 1, 4, 4), torch.zeros(9).long(), "title")
    with torch.no_grad():
        bars = shown.kl_bars()
        kl, _ = shown.information
    assert isinstance(bars, Bars)
    assert len(bars.values) == MOST_BARS
    assert min(bars.values) >= float(kl.sort(descending=True).values[MOST_BARS])
    assert bars.subtitle == "the largest 50 of 3,000; title"
    assert canvas.draw(bars).height < 1000
    assert canvas.named_labels(torch.tensor([4, 1, 1])) == [1, 4]
    assert canvas.named_labels(torch.zeros(5)) == canvas.named_labels(torch.arange(300)) == []
    points = Scatter(
        torch.rand(300, 2), torch.arange(300), list(map(str, range(300))), "a", "b", "c", "d"
    )
    assert canvas.draw(points).size == (624, 675)


def test_the_number_of_images_falls_with_their_size() -> None:
    assert shown_count(1000, 784) == 1000
    assert shown_count(1000, 3 * 512 * 512) * 3 * 512 * 512 <= MOST_PIXELS
    assert shown_count(1000, 10**9) == batch_size(10**9) == 1
    assert batch_size(784) == 100
    assert batch_size(3 * 64 * 64) * SAMPLES * 3 * 64 * 64 <= DECODED_PIXELS


def test_a_grid_of_two_and_four_channels_is_a_valid_picture(tmp_path: Path) -> None:
    for channels in (2, 4):
        grid = Grid(torch.rand(2, 3, channels, 5, 6), "title", "subtitle")
        canvas.save_png(tmp_path / "a.png", canvas.draw(grid))
        figure.save_figure(tmp_path / "a.svg", grid)
        with Image.open(tmp_path / "a.png") as picture:
            picture.verify()
        assert (tmp_path / "a.svg").read_text().startswith("<?xml")
