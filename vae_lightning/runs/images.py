"""Reads images that are not part of the data set: files, PIL images, arrays and tensors.

They are read and checked as those of a data set are; see data.convert and data.sources.folder.
Shapes: N images, C H W of an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from vae_lightning.checks.errors import ConfigError
from vae_lightning.data.convert import Format, find_range
from vae_lightning.data.sources import arrays
from vae_lightning.data.sources.folder import UNREADABLE, find_files, to_pixels
from vae_lightning.data.splits import binarize

Images = Tensor | np.ndarray | Image.Image | str | Path  # one image or several
Source = Images | Sequence[Images]
ARRAY_NAME = "images"  # of the array to read from a file that holds several


@dataclass(frozen=True)
class Inputs:
    """Images that are converted and binarized already, as the encoder takes them."""

    x: Tensor  # (N, C, H, W), float32 in [0, 1]

    def __getitem__(self, index: slice) -> "Inputs":
        """Some of the images."""
        return Inputs(self.x[index])

    def __len__(self) -> int:
        """The number of images."""
        return len(self.x)


class Wanted(NamedTuple):
    """What the images of a run are like."""

    shape: tuple[int, int, int]  # C, H, W
    value_range: Sequence[float] | None = None  # of arrays: the values of black and white
    background: str = "white"  # behind transparent parts of files


def as_images(source: Source, wanted: Wanted, key: str = "x") -> tuple[Tensor, list[str]]:
    """Returns images (N, C, H, W), float32 in [0, 1], and a name for each.

    The name of a file in a folder is its path within the folder. An image of a file of arrays is
    called FILE[POSITION]. An image that comes from no file has the name "".

    Args:
        source: a path of an image file, of a .npy, .npz or .safetensors file or of a folder of
            images; a PIL image; an array of shape (N, C, H, W), (N, H, W, C) or one image of these,
            and if C = 1 also (N, H, W) or (H, W), uint8 in [0, 255], float in [0, 1], or in the
            range of the data of the run; or a list of any of these.
        wanted: what the images become.
        key: what the source is called in messages.

    Raises ConfigError for a file that cannot be read, and for a wrong shape, type or range.
    """
    if isinstance(source, list | tuple) and any(isinstance(part, Images) for part in source):
        images, names = zip(*(as_images(part, wanted, key) for part in source), strict=True)
        return torch.cat(images), [name for part in names for name in part]
    if isinstance(source, str | Path):
        return read_path(Path(source).expanduser(), wanted, f"{key}={source}")
    if isinstance(source, Image.Image):
        return to_pixels(source, wanted.shape, wanted.background)[None].float() / 255, [""]
    pixels = check_images(as_tensor(key, source), wanted, key)
    return pixels, [""] * len(pixels)


def read_path(path: Path, wanted: Wanted, key: str) -> tuple[Tensor, list[str]]:
    """Reads a folder of images, an image file, or an array; see as_images."""
    if path.is_dir():
        files = find_files(path)
        if not files:
            raise ConfigError(f"{key}: must hold image files, but the folder has none")
        names = [name_of(file.relative_to(path)) for file in files]
    elif path.is_file() and path.suffix.lower() in arrays.ENDINGS:
        images = check_images(torch.as_tensor(read_array(path, key).copy()), wanted, key)
        name = name_of(Path(path.name))
        return images, [f"{name}[{position}]" for position in range(len(images))]
    elif path.is_file():
        files, names = [path], [name_of(Path(path.name))]
    else:
        raise ConfigError(
            f"{key}: must be an image, an array file ({', '.join(arrays.ENDINGS)}), or a folder of"
            " images"
        )
    images = [read_file(file, wanted, f"{key.partition('=')[0]}={file}") for file in files]
    return torch.stack(images).float() / 255, names


def name_of(path: Path) -> str:
    """Returns a path as text that can be written to a file; bytes that are no UTF-8 become ?."""
    return path.as_posix().encode(errors="replace").decode()


def read_array(path: Path, key: str) -> np.ndarray:
    """Reads the array of a file: the one called images, or the only one."""
    found = arrays.read_arrays(path, key)
    if ARRAY_NAME not in found and len(found) != 1:
        listed = ", ".join(found)
        raise ConfigError(f"{key}: must hold an array {ARRAY_NAME}, has {listed or 'none'}")
    return found.get(ARRAY_NAME, next(iter(found.values())))


def read_file(path: Path, wanted: Wanted, key: str) -> Tensor:
    """Reads an image file as uint8 (C, H, W)."""
    try:
        with Image.open(path) as image:
            return to_pixels(image, wanted.shape, wanted.background)
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{key}: must be an image ({error})") from error
    except UNREADABLE as error:
        raise ConfigError(f"{key}: the image cannot be read ({error})") from error


def check_images(x: Tensor, wanted: Wanted, key: str) -> Tensor:
    """Converts images to float32 in [0, 1], (N, C, H, W).

    Raises ConfigError for a wrong shape, type or range.
    """
    channels, height, width = wanted.shape
    layouts: dict[str, tuple[int, ...]] = {
        "NCHW": wanted.shape,
        "NHWC": (height, width, channels),
    }
    if channels == 1:
        layouts["NHW"] = (height, width)
    if channels == height == 1:
        layouts["ND"] = (width,)
    found = {tuple(x.shape): x[None], tuple(x.shape[1:]): x}  # one image, or several
    layout = next((layout for layout, shape in layouts.items() if shape in found), None)
    if layout is None:
        allowed = " or ".join(
            f"(N, {', '.join(map(str, shape))})" for shape in dict.fromkeys(layouts.values())
        )
        raise ConfigError(f"{key}: must have shape {allowed}, or be one image; got {list(x.shape)}")
    if not x.numel():
        raise ConfigError(f"{key}: must hold at least one image")
    remedy = "scale its values" if wanted.value_range is None else "those of the data of the run"
    low, high = find_range(x, key, wanted.value_range, remedy)
    return Format(layout, low, high).scaled(found[layouts[layout]])


def as_tensor(key: str, values: object) -> Tensor:
    """Returns numbers as a tensor; raises ConfigError, with the key, if they are none."""
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        shown = type(values).__name__
        raise ConfigError(f"{key}: must be numbers of equal lengths, got {shown}") from error


# binarization of the data -> what is done with new gray images x, in words
BINARIZED = {
    "threshold": "pixels binarized: 1 if > 1/2",
    "fixed": "pixels binarized at random with their value as probability",
    "dynamic": "pixels binarized at random with their value as probability",
}


def binarized(x: Tensor, binarization: str, name: str) -> Tensor:
    """Makes the pixels of new images 0 or 1, as those of the test images of a data set are.

    Pixels that are 0 or 1 stay as they are. The noise depends only on the data set and the position
    of the image, so that gray test images become the test images that evaluation uses.

    Args:
        x: images (N, C, H, W) in [0, 1].
        binarization: see ImageData; none: x is returned.
        name: name of the data set.
    """
    if binarization == "threshold":
        return (x > 0.5).float()
    if binarization in ("fixed", "dynamic"):
        return (binarize((x * 255).cpu(), name, "test").float() / 255).to(x.device)
    return x
