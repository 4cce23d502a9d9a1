"""Folders of images, arrays, data sets of torchvision, and classes of users."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file
from torch.utils.data import Dataset
from torchvision.datasets import FakeData, ImageFolder

from vae_lightning.checks.errors import ConfigError
from vae_lightning.data.augment import augment
from vae_lightning.data.convert import find_format, to_labels
from vae_lightning.data.images import ImageData
from vae_lightning.data.shown import label_names
from vae_lightning.data.sources.arrays import ArrayImages, GivenArrays
from vae_lightning.data.sources.folder import FolderImages, to_pixels
from vae_lightning.data.sources.read import Division, Found, read
from vae_lightning.data.sources.source import Source
from vae_lightning.data.sources.sprites import Sprites
from vae_lightning.data.sources.torchvision import TorchvisionImages
from vae_lightning.data.splits import block_order


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAE_LIGHTNING_CACHE", str(tmp_path / "cache"))


def found(source: Source, shape: tuple[int, ...] | None = None, **division: object) -> Found:
    sizes = {"val_size": None, "test_size": None} | division
    return read(source, "made_up", shape, Division(**sizes))


def gray(value: int, size: tuple[int, int] = (6, 4)) -> Image.Image:
    return Image.new("L", size, value)


def save(path: Path, image: Image.Image, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


# folders


def test_a_folder_without_splits_is_divided_by_class(tmp_path: Path) -> None:
    for number in range(40):
        kind = "cat" if number % 4 else "dog"
        save(tmp_path / "in" / kind / f"{number}.png", gray(number))
    (tmp_path / "in" / ".hidden.png").write_bytes(b"no image")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    data = found(FolderImages(tmp_path / "in"), val_size=8, test_size=0.1)
    parts = data.parts
    assert {split: len(part.images) for split, part in parts.items()} == {
        "train": 28,
        "val": 8,
        "test": 4,
    }
    assert data.shape == (1, 4, 6)
    assert data.classes == 2
    assert parts["val"].labels.bincount().tolist() == [6, 2]  # cat, dog: as in all images
    values = torch.cat([part.images[:, 0, 0, 0] for part in parts.values()])
    assert sorted(values.tolist()) == list(range(40))
    for part in parts.values():
        numbers = [int(Path(file).stem) for file in part.files]
        assert part.images[:, 0, 0, 0].tolist() == numbers
        assert part.labels.tolist() == [int(number % 4 == 0) for number in numbers]
    again = found(FolderImages(tmp_path / "in"), val_size=8, test_size=0.1)
    assert again.fingerprints == data.fingerprints


@pytest.mark.parametrize("validation", ["val", "valid", None])
def test_folders_of_splits_are_used(tmp_path: Path, validation: str | None) -> None:
    for split, count in (("Train", 5), (validation, 3), ("test", 2)):
        for number in range(count if split else 0):
            save(tmp_path / "in" / split / f"{number}.bmp", gray(10 * count + number))
    parts = found(FolderImages(tmp_path / "in")).parts
    held_out = 0 if validation else 1
    assert len(parts["train"].images) == 5 - held_out
    assert len(parts["val"].images) == (3 if validation else held_out)
    assert parts["test"].images[:, 0, 0, 0].tolist() == [20, 21]
    with pytest.raises(ConfigError, match=r"data.test_size=0.2: must be null, because made_up has"):
        found(FolderImages(tmp_path / "in"), test_size=0.2)


FORMATS = ("png", "jpg", "webp", "bmp", "gif", "tif", "pgm")


def test_all_formats_are_read(tmp_path: Path) -> None:
    for kind in FORMATS:
        save(tmp_path / "in" / f"{kind}.{kind}", gray(90))
    parts = found(FolderImages(tmp_path / "in"), (1, 4, 6)).parts
    images = torch.cat([part.images for part in parts.values()])
    assert len(images) == len(FORMATS)
    assert (images.int() - 90).abs().max() <= 1  # JPEG and WebP round


def test_exif_alpha_16_bits_and_palettes(tmp_path: Path) -> None:
    # an image that the camera has stored turned by 90 degrees
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(np.array([[10, 20, 30], [40, 50, 60]], np.uint8))
    save(tmp_path / "turned.png", turned, exif=exif)
    with Image.open(tmp_path / "turned.png") as image:
        assert to_pixels(image, (1, 3, 2)).tolist() == [[[40, 10], [50, 20], [60, 30]]]
    clear = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    clear.putpixel((0, 0), (255, 0, 0, 255))
    assert to_pixels(clear, (3, 2, 2))[:, 0].T.tolist() == [[255, 0, 0], [255, 255, 255]]
    assert to_pixels(clear, (3, 2, 2), "#0000ff")[:, 0].T.tolist() == [[255, 0, 0], [0, 0, 255]]
    assert to_pixels(clear, (4, 2, 2))[3].tolist() == [[255, 0], [0, 0]]
    deep = Image.fromarray(np.array([[0, 257 * 100, 65535]], np.uint16))
    save(tmp_path / "deep.png", deep)
    with Image.open(tmp_path / "deep.png") as image:
        assert to_pixels(image, (1, 1, 3)).tolist() == [[[0, 100, 255]]]
    palette = Image.new("RGB", (2, 1), (10, 200, 30)).quantize(4)
    assert to_pixels(palette, (3, 1, 2))[:, 0, 0].tolist() == [10, 200, 30]


def test_images_are_scaled_and_their_center_is_cut_out() -> None:
    pixels = np.zeros((20, 60), np.uint8)
    pixels[:, 20:40] = 200  # the central square
    image = Image.fromarray(pixels)
    assert (to_pixels(image, (1, 20, 20)) == 200).all()
    assert (to_pixels(image, (1, 10, 10))[0, 5, 1:9].int() - 200).abs().max() <= 10
    # a tall target takes the full height of the image and a narrow center
    assert (to_pixels(image, (1, 20, 4)) == 200).all()


def test_images_of_different_sizes_require_a_shape(tmp_path: Path) -> None:
    for number, size in enumerate([(6, 4), (6, 4), (9, 3)]):
        save(tmp_path / "in" / f"{number}.png", Image.new("RGB", size))
    with pytest.raises(ConfigError, match=r"2 sizes.*2 of 3 are 6 x 4: data.image_shape=\[3,4,6\]"):
        found(FolderImages(tmp_path / "in"))
    assert found(FolderImages(tmp_path / "in"), (1, 5, 5)).shape == (1, 5, 5)


def test_unreadable_files_are_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(20):
        save(tmp_path / "in" / f"{number:02}.png", gray(number))
    (tmp_path / "in" / "05.png").write_bytes(b"no image")
    damaged = (tmp_path / "in" / "07.png").read_bytes()
    (tmp_path / "in" / "07.png").write_bytes(damaged[: len(damaged) // 2])
    for _ in range(2):  # the second time from the cache
        caplog.clear()
        parts = found(FolderImages(tmp_path / "in")).parts
        values = torch.cat([part.images[:, 0, 0, 0] for part in parts.values()]).tolist()
        assert sorted(values) == [n for n in range(20) if n not in (5, 7)]
        assert "cannot be read and are left out" in caplog.text
        assert "05.png" in caplog.text
        assert "07.png" in caplog.text


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    for number in range(10):
        save(tmp_path / "in" / f"{number}.png", gray(number))
    before = found(FolderImages(tmp_path / "in"))
    save(tmp_path / "in" / "3.png", gray(77, (6, 4)), compress_level=0)
    after = found(FolderImages(tmp_path / "in"))
    assert before.fingerprints != after.fingerprints
    assert any(77 in part.images for part in after.parts.values())


def test_images_in_train_and_test_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = np.arange(40, dtype=np.uint8).reshape(40, 1, 1)
    np.savez(tmp_path / "x.npz", train=values[:30] + 100, test=values[25:35] + 100)
    found(ArrayImages(tmp_path / "x.npz"), val_size=0)
    assert (
        "the training images contain 5 of the 10 test images: the test results are better"
        in caplog.text
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: None, "must be a folder with images; it does not exist"),
        (lambda root: root.mkdir(), "must be a folder with images"),
        (
            lambda root: save(root / "test" / "a.png", gray(1)),
            "must hold at least 3 images, but holds 1",
        ),
        (lambda root: save(root / "a.png", gray(1)), "must hold at least 3 images"),
    ],
)
def test_folders_without_images(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    make(tmp_path / "in")
    with pytest.raises(ConfigError, match=message):
        found(FolderImages(tmp_path / "in"))


# arrays


def test_arrays_of_every_layout_and_type_give_the_same_images(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 3, 5, 7), np.uint8)
    images[0, 0, 0, :2] = 0, 255
    last = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    forms: dict[str, tuple[np.ndarray, dict[str, object]]] = {
        "NCHW": (images, {}),
        "NHWC": (last, {}),
        "float": ((images / 255).astype(np.float32), {}),
        "uint16": (images.astype(np.uint16) * 16 + 5, {"value_range": [5, 4085]}),
        "range": (images / 255 * 3 - 1, {"value_range": [-1, 2]}),
    }
    results = []
    for name, (values, options) in forms.items():
        np.savez(tmp_path / f"{name}.npz", x=values, labels=np.arange(30) % 3)
        data = found(ArrayImages(tmp_path / f"{name}.npz", **options))
        assert data.shape == (3, 5, 7)
        results.append(data.fingerprints)
    save_file({"x": images, "labels": np.arange(30) % 3}, tmp_path / "x.safetensors")
    results.append(found(ArrayImages(tmp_path / "x.safetensors")).fingerprints)
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "folder" / "x.npy", images)
    np.save(tmp_path / "folder" / "labels.npy", np.arange(30) % 3)
    results.append(found(ArrayImages(tmp_path / "folder")).fingerprints)
    assert all(result == results[0] for result in results)


def test_vectors_gray_images_and_masks(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.linspace(0, 1, 60, dtype=np.float32).reshape(20, 3))
    assert found(ArrayImages(tmp_path / "v.npy")).shape == (1, 1, 3)
    masks = np.random.default_rng(0).integers(0, 2, (20, 4, 5))
    np.save(tmp_path / "b.npy", masks.astype(bool))
    parts = found(ArrayImages(tmp_path / "b.npy")).parts
    assert torch.cat([part.images for part in parts.values()]).unique().tolist() == [0, 255]
    np.save(tmp_path / "m.npy", masks.astype(np.uint8))
    with pytest.raises(ConfigError, match=r"holds only 0 and 1.*set data.range=\[0,1\]"):
        found(ArrayImages(tmp_path / "m.npy"))
    again = found(ArrayImages(tmp_path / "m.npy", [0, 1])).parts
    assert torch.equal(again["train"].images, parts["train"].images)


def test_factors_of_an_array_file_belong_to_their_images(tmp_path: Path) -> None:
    factors = np.stack([np.arange(30), np.arange(30) // 7], 1)
    np.savez(tmp_path / "f.npz", x=(factors[:, :1] * 5).astype(np.uint8), factors=factors)
    for part in found(ArrayImages(tmp_path / "f.npz")).parts.values():
        assert part.factors is not None
        assert torch.equal(part.images[:, 0, 0, 0].long(), part.factors[:, 0] * 5)


def test_a_data_set_says_which_factors_have_no_order(tmp_path: Path) -> None:
    class Known(Dataset):
        data, factors = torch.zeros(20, 3, 3), np.arange(40).reshape(20, 2)
        unordered_factors = (1,)

    assert found(TorchvisionImages(Known, tmp_path)).unordered_factors == (1,)
    assert found(TorchvisionImages(partial(Sprites, count=20), tmp_path)).unordered_factors == (0,)
    arrays = {"x": np.zeros((20, 3, 3), np.uint8), "factors": Known.factors - 5}
    assert found(GivenArrays(arrays)).unordered_factors == ()
    assert found(
        GivenArrays(arrays | {"unordered_factors": np.array([1, 0])})
    ).unordered_factors == (1, 0)
    for wrong in (np.array([2]), np.array([-1]), np.array([[0]]), np.array([0.0])):
        message = r"unordered_factors: must be a list of positions of factors, 0 to F - 1.* F = 2$"
        with pytest.raises(ConfigError, match=message):
            found(GivenArrays(arrays | {"unordered_factors": wrong}))
    split = {"train": arrays["x"], "test": arrays["x"], "test_factors": Known.factors}
    assert found(GivenArrays(split | {"unordered_factors": np.array([1])})).unordered_factors == (
        1,
    )
    Known.factors = np.zeros((20, 2))
    with pytest.raises(ConfigError, match="factors of Known: must be integers of shape"):
        found(TorchvisionImages(Known, tmp_path))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((4, 9, 9, 9), np.uint8), "1 to 4 channels.*4 x 9 x 9 x 9"),
        (np.zeros((4, 3, 5, 3), np.uint8), r"set data.image_shape=\[3, 5, 3\] or"),
        (np.zeros((2, 2, 2, 2, 2), np.uint8), "must be N images"),
        (np.zeros((0, 5, 5), np.uint8), "must hold at least one image"),
        (np.full((4, 5, 5), np.nan, np.float32), "4 of its 4 images hold NaN"),
        (np.full((4, 5, 5), 7, np.uint16), r"uint16 from 7 to 7: set data.range"),
        (np.full((4, 5, 5), 2.5), r"float64 from 2.5 to 2.5: set data.range"),
        (np.array([["a", "b"]]), "must hold numbers"),
    ],
)
def test_wrong_arrays_are_refused(values: np.ndarray, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_format(values, "x")


def test_images_of_one_value_have_any_layout() -> None:
    assert find_format(np.zeros((4, 1, 1, 1), np.uint8), "x").shape(np.zeros((4, 1, 1, 1))) == (
        1,
        1,
        1,
    )


def test_arrays_of_another_shape_or_range_are_refused() -> None:
    values = np.zeros((4, 5, 7), np.uint8)
    with pytest.raises(ConfigError, match=r"data.image_shape=\[1, 7, 5\].*has \[1, 5, 7\]"):
        find_format(values, "x", (1, 7, 5))
    with pytest.raises(ConfigError, match=r"data.range=\[0, 10\]: must contain x, which is uint8"):
        find_format(values + 11, "x", None, (0, 10))
    with pytest.raises(ConfigError, match=r"data.layout=NCHW: must fit x, which has 3 axes"):
        find_format(values, "x", None, None, "NCHW")


def test_python_objects_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], object))
    with pytest.raises(ConfigError, match=r"without Python objects"):
        found(ArrayImages(tmp_path / "o.npy"))
    (tmp_path / "z.npz").write_bytes(b"no archive")
    with pytest.raises(ConfigError, match=r"must hold arrays of numbers"):
        found(ArrayImages(tmp_path / "z.npz"))
    np.savez(tmp_path / "two.npz", a=np.zeros((4, 5, 5)), b=np.zeros((4, 5, 5)))
    with pytest.raises(ConfigError, match=r"it has a, b"):
        found(ArrayImages(tmp_path / "two.npz"))


def test_labels() -> None:
    assert to_labels(None, 3, "x").values.tolist() == [0, 0, 0]
    assert to_labels(["b", "a", "b"], 3, "x").values.tolist() == [1, 0, 1]
    assert to_labels(["b", "a", "b"], 3, "x").names == ("a", "b")
    assert to_labels(np.array([1.0, 0.0, 4.0]), 3, "x").values.tolist() == [1, 0, 4]
    assert to_labels(torch.tensor([-1, 5, -1]), 3, "x").values.tolist() == [0, 1, 0]
    for values in (np.array([0.5, 1, 2]), np.zeros((3, 2))):
        assert "not used as classes" in to_labels(values, 3, "x").remark
    with pytest.raises(ConfigError, match=r"one label per image, 3, but has 2"):
        to_labels([1, 2], 3, "x")


def test_labels_outside_of_the_classes_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((30, 4, 4)), labels=np.arange(30) % 5)
    with pytest.raises(
        ConfigError, match=r"data.classes=4: must be greater than the largest label"
    ):
        found(ArrayImages(tmp_path / "x.npz"), classes=4)
    assert found(ArrayImages(tmp_path / "x.npz")).classes == 5


# classes


class Own(Dataset):
    """A user's data set: color images of one class, without labels."""

    def __init__(self, root: Path, train: bool = True, transform: object = None) -> None:
        self.data = torch.full(
            (12 if train else 4, 3, 5, 4), 40 if train else 50, dtype=torch.uint8
        )
        self.data += torch.arange(len(self.data), dtype=torch.uint8)[:, None, None, None]
        self.transform = transform


class Split(Own):
    """A data set with split= and lists of texts as labels."""

    def __init__(self, root: Path, split: str = "train") -> None:
        if split not in ("train", "valid"):
            raise ValueError(split)
        super().__init__(root, split == "train")
        self.labels = ["b", "a"] * (len(self.data) // 2)


def test_a_users_class() -> None:
    with pytest.raises(ConfigError, match=r"set data.image_shape=\[3, 5, 4\] or"):
        found(TorchvisionImages(Own, Path()))
    data = found(TorchvisionImages(Own, Path()), (3, 5, 4), val_size=2)
    assert {split: len(part.images) for split, part in data.parts.items()} == {
        "train": 10,
        "val": 2,
        "test": 4,
    }
    assert (data.shape, data.classes) == ((3, 5, 4), 1)
    split = found(TorchvisionImages(Split, Path()), (3, 5, 4), val_size=0).parts
    assert split["test"].images[:, 0, 0, 0].tolist() == [50, 51, 52, 53]
    assert split["train"].labels.tolist() == [1, 0] * 6
    with pytest.raises(ConfigError, match=r"data.dataset.transform: must not be given to Own"):
        found(TorchvisionImages(partial(Own, transform=len), Path()))


def test_data_sets_of_torchvision(tmp_path: Path) -> None:
    fake = partial(FakeData, size=30, image_size=(3, 7, 5), num_classes=4)
    assert found(TorchvisionImages(fake, tmp_path)).shape == (3, 7, 5)
    for number in range(30):
        save(tmp_path / "in" / "ab"[number % 2] / f"{number}.png", Image.new("RGB", (5, 7)))
    data = found(TorchvisionImages(ImageFolder, tmp_path / "in"))
    assert data.classes == 2
    assert data.shape == (3, 7, 5)
    for part in data.parts.values():
        assert part.labels.tolist() == [int(Path(file).stem) % 2 for file in part.files]


# large data sets


def test_mapped_images_are_those_in_memory(tmp_path: Path) -> None:
    for number in range(50):
        save(tmp_path / "in" / f"{number}.png", gray(number))
    memory, mapped = (
        found(FolderImages(tmp_path / "in"), in_memory=each) for each in (True, False)
    )
    for split, part in memory.parts.items():
        assert torch.equal(part.images, mapped.parts[split].images)
    one, other = (
        ImageData("x", each.parts, 7, "none", 0, in_memory=each.in_memory)
        for each in (memory, mapped)
    )
    x, _ = one.inputs("test", slice(3))
    assert torch.equal(x, other.inputs("test", slice(3))[0])
    with pytest.raises(ConfigError, match=r"requires data.in_memory=true"):
        ImageData("x", mapped.parts, 7, "fixed", 0, in_memory=False)


@pytest.mark.parametrize("count", [1, 1000, 100_000])
def test_block_order_is_a_permutation_that_reads_in_blocks(count: int) -> None:
    order = block_order(count, 12_288, torch.Generator().manual_seed(3))
    assert torch.equal(order.sort().values, torch.arange(count))
    assert torch.equal(order, block_order(count, 12_288, torch.Generator().manual_seed(3)))
    if count == 100_000:  # blocks of 85 images, 128 of them at a time
        blocks = (order[:10_000] // 85).unique()
        assert len(blocks) == 128
        assert blocks.double().mean() == pytest.approx(100_000 / 85 / 2, rel=0.2)
        assert (order[:5000].diff().abs() == 1).double().mean() < 0.01


# augmentation


def test_flips_and_crops_are_exact_and_reproducible() -> None:
    x = torch.rand(200, 2, 8, 16)

    def changed(*names: str, seed: int = 0) -> torch.Tensor:
        return augment(x, names, torch.Generator().manual_seed(seed))

    assert torch.equal(changed(), x)
    flips = changed("flip")
    is_flipped = (flips == x.flip(-1)).flatten(1).all(1)
    assert (is_flipped | (flips == x).flatten(1).all(1)).all()
    assert 70 < int(is_flipped.sum()) < 130
    vertical = changed("flip_vertical")
    assert ((vertical == x.flip(-2)) | (vertical == x)).flatten(1).all(1).all()
    shifts = {
        (down, right): x[
            :,
            :,
            (torch.arange(8) + down).clamp(0, 7)[:, None],
            (torch.arange(16) + right).clamp(0, 15),
        ]
        for down in (-1, 0, 1)
        for right in range(-2, 3)
    }
    crops = changed("crop")
    matches = torch.stack([(crops == each).flatten(1).all(1) for each in shifts.values()])
    assert matches.any(0).all()
    assert (matches.sum(1) > 0).all()  # each of the 15 shifts occurs
    assert torch.equal(changed("crop", "flip"), changed("flip", "crop"))
    assert not torch.equal(changed("flip"), changed("flip", seed=1))


def test_a_rotation_turns_the_image_and_keeps_its_center() -> None:
    y, x = torch.meshgrid(torch.arange(41.0) - 20, torch.arange(61.0) - 30, indexing="ij")
    image = (0.5 + 0.01 * x)[None, None].expand(64, 1, -1, -1)  # a slope to the right
    turned = augment(image, ["rotate"], torch.Generator().manual_seed(0))
    assert torch.allclose(turned[:, 0, 20, 30], torch.full((64,), 0.5), atol=1e-5)
    across = (turned[:, 0, 20, 40] - turned[:, 0, 20, 20]) / 20 * 100  # cosine of the angle
    down = (turned[:, 0, 30, 30] - turned[:, 0, 10, 30]) / 20 * 100  # plus or minus its sine
    assert torch.allclose(across.square() + down.square(), torch.ones(64), atol=1e-3)
    angles = torch.atan2(down, across).rad2deg()
    assert angles.abs().max() <= 10
    assert angles.std() == pytest.approx(20 / 12**0.5, rel=0.25)
    assert y.shape == x.shape


def test_the_names_of_the_classes_are_shown(tmp_path: Path) -> None:
    for number in range(12):
        place = tmp_path / "photos" / ("cat", "dog")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (6, 5), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    found = read(FolderImages(tmp_path / "photos"), "photos", None, Division(None, None))
    assert found.class_names == ("cat", "dog")
    assert label_names(found.class_names, 2) == ["cat", "dog"]
    assert label_names(found.class_names, 3) == ["0", "1", "2"]
    part = SimpleNamespace(data=np.zeros((2, 6, 5), np.uint8), classes=["0 - zero", "shirt"])
    assert TorchvisionImages(FakeData, tmp_path).pool(part, None).class_names == ("0", "shirt")
