"""Reads images that are not part of the data set: files, PIL images, arrays and tensors.

Shapes: N images, C H W of an image.
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from vae_lightning.checks.errors import ConfigError
from vae_lightning.data.splits import binarize

Images = Tensor | np.ndarray | Image.Image | str | Path  # one image or several
Source = Images | Sequence[Images]
MODES = {1: "L", 3: "RGB"}  # channels -> what PIL converts an image to
ARRAYS = (".npy", ".npz")
ARRAY_NAME = "images"  # of the array to read from an .npz file that holds several


def as_images(
    source: Source, image_shape: Sequence[int], key: str = "x"
) -> tuple[Tensor, list[str]]:
    """Returns images (N, C, H, W), float32 in [0, 1], and a name for each.

    The name of a file in a folder is its path within the folder. An image of an .npy or .npz file
    is called FILE[POSITION]. An image that comes from no file has the name "".

    Args:
        source: a path of an image file, of a .npy or .npz file or of a folder of images; a PIL
            image; an array, uint8 in [0, 255] or float in [0, 1], of shape (N, C, H, W) or
            (C, H, W), and if C = 1 also (N, H, W) or (H, W); or a list of any of these. Files and
            PIL images become gray or RGB, and are resized and cropped to H x W around the center.
        image_shape: C, H, W.
        key: what the source is called in messages.

    Raises ConfigError for a file that cannot be read, and for a wrong shape, type or range.
    """
    shape = tuple(image_shape)
    if isinstance(source, list | tuple) and any(isinstance(part, Images) for part in source):
        images, names = zip(*(as_images(part, shape, key) for part in source), strict=True)
        return torch.cat(images), [name for part in names for name in part]
    if isinstance(source, str | Path):
        return read_path(Path(source).expanduser(), shape, f"{key}={source}")
    if isinstance(source, Image.Image):
        return fit(source, shape, key)[None].float() / 255, [""]
    pixels = check_images(as_tensor(key, source), shape, key)
    return pixels, [""] * len(pixels)


def read_path(path: Path, shape: tuple[int, ...], key: str) -> tuple[Tensor, list[str]]:
    """Reads a folder of images, an image file, or an array; see as_images."""
    if path.is_dir():
        readable = {
            end for end, kind in Image.registered_extensions().items() if kind in Image.OPEN
        }
        found = (file for file in path.rglob("*") if file.suffix.lower() in readable)
        files = sorted(file for file in found if file.is_file() and file.name[0] != ".")
        if not files:
            raise ConfigError(f"{key}: must hold image files, but the folder has none")
        names = [name_of(file.relative_to(path)) for file in files]
    elif path.is_file() and path.suffix.lower() in ARRAYS:
        images = check_images(as_tensor(key, read_array(path, key)), shape, key)
        return images, [
            f"{name_of(Path(path.name))}[{position}]" for position in range(len(images))
        ]
    elif path.is_file():
        files, names = [path], [name_of(Path(path.name))]
    else:
        raise ConfigError(
            f"{key}: must be an image, a .npy or .npz file, or a folder of images; there is none"
        )
    images = [read_file(file, shape, f"{key.partition('=')[0]}={file}") for file in files]
    return torch.stack(images).float() / 255, names


def name_of(path: Path) -> str:
    """Returns a path as text that can be written to a file; bytes that are no UTF-8 become ?."""
    return path.as_posix().encode(errors="replace").decode()


def read_array(path: Path, key: str) -> np.ndarray:
    """Reads the array of a .npy file, or of an .npz file the one called images or the only one."""
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            if ARRAY_NAME not in content.files and len(content.files) != 1:
                listed = ", ".join(content.files)
                raise ConfigError(f"{key}: must hold an array {ARRAY_NAME}, has {listed or 'none'}")
            return content[ARRAY_NAME if ARRAY_NAME in content.files else content.files[0]]
    except ConfigError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{key}: must be a file that numpy.save wrote ({error})") from error


def read_file(path: Path, shape: tuple[int, ...], key: str) -> Tensor:
    """Reads an image file as uint8 (C, H, W)."""
    try:
        with Image.open(path) as image:
            return fit(image, shape, key)
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{key}: must be an image ({error})") from error
    except (OSError, SyntaxError, EOFError) as error:  # PIL raises these for damaged files
        raise ConfigError(f"{key}: the image is damaged ({error})") from error


def fit(image: Image.Image, shape: tuple[int, ...], key: str) -> Tensor:
    """Converts a PIL image to uint8 (C, H, W): turned upright, gray or RGB, resized and cropped.

    The crop has the aspect ratio H : W and is as large as possible around the center. Transparency
    is ignored.
    """
    channels, height, width = shape
    if channels not in MODES:
        raise ConfigError(
            f"{key}: must be an array, because the model has images of {channels} channels"
        )
    if image.mode.startswith("I;16"):
        wide = np.asarray(image, dtype=np.float32)  # 16 bits, which PIL would cut off at 255
        image = Image.fromarray((wide / 257).round().astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ConfigError(f"{key}: must have 8 or 16 bits per channel, has 32")
    upright = ImageOps.exif_transpose(image).convert(MODES[channels])
    pixels = np.array(ImageOps.fit(upright, (width, height)))
    return torch.from_numpy(pixels).view(height, width, channels).permute(2, 0, 1)


def check_images(x: Tensor, shape: tuple[int, ...], key: str) -> Tensor:
    """Converts images to float32 in [0, 1], (N, C, H, W).

    Raises ConfigError for a wrong shape, type or range.
    """
    is_gray = shape[0] == 1
    fits = x.shape[1:] == shape or x.shape == shape
    if not fits and not (is_gray and x.ndim in (2, 3) and x.shape[-2:] == shape[1:]):
        size = ", ".join(map(str, shape[1:]))
        others = f"(N, {size}) or ({size})" if is_gray else f"or ({shape[0]}, {size})"
        allowed = f"(N, {shape[0]}, {size}){',' if is_gray else ''} {others}"
        raise ConfigError(f"{key}: must have shape {allowed}, got {tuple(x.shape)}")
    if not x.numel():
        raise ConfigError(f"{key}: must hold at least one image")
    if x.dtype == torch.uint8:
        return x.float().reshape(-1, *shape).div_(255)
    if not x.is_floating_point() or not bool(((x >= 0) & (x <= 1)).all()):
        dtype = str(x.dtype).removeprefix("torch.")
        least, most = x.double().aminmax()
        found = f"{dtype} from {least:g} to {most:g}"
        raise ConfigError(f"{key}: must be uint8 in [0, 255] or float in [0, 1], got {found}")
    return x.float().reshape(-1, *shape)


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
