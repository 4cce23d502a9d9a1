"""A folder of image files: found, decoded in parallel, and brought to one size.

Shapes: N images, C H W of an image.
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageColor, ImageOps
from torch import Tensor

from vae_lightning.checks.errors import ConfigError
from vae_lightning.checks.ranges import Option, Text
from vae_lightning.data.convert import Shape
from vae_lightning.data.sources.source import Pool, StoredImages

ENDINGS = (
    *(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".pgm", ".ppm", ".pbm", ".pnm"),
)
# the names of folders that hold the images of a split
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # channels -> PIL's name
GRAY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N", "F")
READERS = min(8, os.cpu_count() or 1)
# what PIL raises for a file that is damaged or no image
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


class Header(NamedTuple):
    """What an image file says before its pixels."""

    width: int  # as the image is to be seen
    height: int
    is_gray: bool


class FolderImages:
    """The images of a folder and its subfolders.

    With folders train, val and test (or training, valid, validation, testing), these are the
    splits. Within a split, or else the whole folder, the first level of subfolders names the
    classes; images outside of a subfolder have no class.

    An image is turned as its EXIF orientation says. Transparent parts show ``background``, unless
    the images have 2 or 4 channels. Images of 16 bits are divided by 257. If C, H, W are given, an
    image is scaled so that it just covers H x W, and its center is cut out.

    Args:
        root: the folder.
        background: a color, by a name or as #rrggbb.
    """

    may_overlap = True

    def __init__(
        self,
        root: Path,
        background: Annotated[
            str, Option("color behind transparent parts of images", Text("a color"))
        ] = "white",
    ) -> None:
        self.root, self.background = Path(root), background
        try:
            ImageColor.getrgb(background)
        except ValueError as error:
            raise ConfigError(
                f"data.background={background}: must be a color, such as white or #ffffff"
            ) from error

    def pools(self, shape: Sequence[int] | None) -> Mapping[str, Pool]:
        """The images, by the names of the splits; see ``Source``."""
        folders = split_folders(self.root)
        found = {split: find_files(folder) for split, folder in folders.items()}
        if not any(found.values()):
            raise ConfigError(
                f"data.root={self.root}: must be a folder with images ({', '.join(ENDINGS)})"
            )
        if not found["train"]:
            raise ConfigError(f"data.root={self.root}: must have images in a folder train")
        every = [path for paths in found.values() for path in paths]
        wanted = to_shape(shape) if shape else common_shape(every)
        return {
            split: self.pool(paths, folders[split], wanted)
            for split, paths in found.items()
            if paths
        }

    def pool(self, paths: Sequence[Path], folder: Path, shape: Shape) -> Pool:
        """The images of a split."""
        parents = [path.relative_to(folder).parts[:-1] for path in paths]
        labels = [parts[0] for parts in parents if parts]
        return Pool(
            from_files(paths, shape, self.background),
            labels if len(labels) == len(paths) else None,
            files=tuple(str(path.relative_to(self.root)) for path in paths),
        )


def from_files(paths: Sequence[Path], shape: Shape, background: str = "white") -> StoredImages:
    """The images of these files, as ``FolderImages`` describes them."""
    decode = partial(read_image, shape=shape, background=background)
    stamps = [(str(path), *stamp(path)) for path in paths]
    return StoredImages(
        [str(path) for path in paths],
        shape,
        partial(read_images, paths, decode),
        repr((stamps, background)),
    )


def to_shape(sizes: Sequence[int]) -> Shape:
    """C, H, W as a tuple; raises ConfigError for channels that no image file has."""
    channels, height, width = sizes
    if channels not in MODES:
        raise ConfigError(f"data.image_shape={list(sizes)}: must have 1 to 4 channels")
    return channels, height, width


def common_shape(paths: Sequence[Path]) -> Shape:
    """C, H, W of the images; raises ConfigError if they have different sizes."""
    with ThreadPoolExecutor(READERS) as threads:
        headers = [each for each in threads.map(read_header, paths) if each is not None]
    if not headers:
        raise ConfigError(f"data.root: must hold images that can be read, unlike {paths[0]}")
    channels = 1 if all(header.is_gray for header in headers) else 3
    sizes = Counter((header.width, header.height) for header in headers)
    (width, height), number = sizes.most_common(1)[0]
    if len(sizes) > 1:
        smallest, largest = min(sizes), max(sizes)
        raise ConfigError(
            f"data.image_shape=null: must be given, because the images have {len(sizes)} sizes,"
            f" from {smallest[0]} x {smallest[1]} to {largest[0]} x {largest[1]} (width x height);"
            f" {number} of {len(headers)} are {width} x {height}:"
            f" data.image_shape=[{channels},{height},{width}]"
        )
    return channels, height, width


def split_folders(root: Path) -> dict[str, Path]:
    """The folder of each split; the whole folder if it has none for the training images."""
    if not root.is_dir():
        raise ConfigError(f"data.root={root}: must be a folder with images; it does not exist")
    inside = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}
    found = {
        split: inside[name]
        for split, names in SPLIT_FOLDERS.items()
        for name in names
        if name in inside
    }
    return found if "train" in found else {"train": root}


def find_files(folder: Path) -> list[Path]:
    """The image files of a folder and its subfolders, in the order of their names."""
    found = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        found += [
            Path(place, name)
            for name in sorted(names)
            if name.lower().endswith(ENDINGS) and not name.startswith(".")
        ]
    return found


def stamp(path: Path) -> tuple[int, int]:
    """What changes when a file changes: its size and its time."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def read_header(path: Path) -> Header | None:
    """What the header of an image says; None if it cannot be read."""
    try:
        with Image.open(path) as image:
            is_gray = image.mode in GRAY_MODES
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            width, height = image.size
    except UNREADABLE:
        return None
    return Header(height, width, is_gray) if turned else Header(width, height, is_gray)


def read_images(
    paths: Sequence[Path], decode: Callable[[Path], Tensor | None], positions: Sequence[int]
) -> list[Tensor | None]:
    """The images at these positions, decoded in parallel: uint8 (C, H, W) each."""
    with ThreadPoolExecutor(READERS) as threads:
        return list(threads.map(decode, [paths[position] for position in positions]))


def read_image(path: Path, shape: Shape, background: str) -> Tensor | None:
    """The image of a file: uint8 (C, H, W); None if it cannot be read."""
    try:
        with Image.open(path) as image:
            return to_pixels(image, shape, background)
    except UNREADABLE:
        return None


def to_pixels(image: Image.Image, shape: Shape, background: str = "white") -> Tensor:
    """An image as the class above describes it: uint8 (C, H, W)."""
    channels, height, width = shape
    turned = ImageOps.exif_transpose(image)
    converted = to_mode(to_8_bits(turned), MODES[channels], background)
    if converted.size != (width, height):
        converted = ImageOps.fit(converted, (width, height), Image.Resampling.LANCZOS)
    pixels = np.asarray(converted, np.uint8)
    channels_first = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return torch.from_numpy(channels_first.copy())


def to_8_bits(image: Image.Image) -> Image.Image:
    """An image of 16 bits per pixel with 8 bits; others are unchanged.

    Raises ValueError for 32 bits per pixel, whose range is not known.
    """
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image).astype(np.float64)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError("it has 32 bits per channel; 8 or 16 are allowed")
    return Image.fromarray((values / 257).round().clip(0, 255).astype(np.uint8))


def to_mode(image: Image.Image, mode: str, background: str) -> Image.Image:
    """An image with these channels; without alpha among them, its transparent parts are filled."""
    if mode in ("L", "RGB") and image.has_transparency_data:
        front = image.convert("RGBA")
        behind = Image.new("RGBA", image.size, background)
        return Image.alpha_composite(behind, front).convert(mode)
    return image.convert(mode)
