"""Writes images as a picture, as one PNG for each, or as arrays.

Shapes: N images, C H W of an image.
"""

import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vae_lightning.plots import canvas
from vae_lightning.plots.picture import Grid
from vae_lightning.storage.files import atomic_write

PAIRS_PER_ROW = 5


def write_images(
    output: str,
    images: Tensor,
    names: Sequence[str],
    grid: Callable[[], Grid],
    arrays: Mapping[str, np.ndarray],
) -> None:
    """Writes what the ending of ``output`` asks for.

    Args:
        output: the picture ``grid`` is written to a .png, ``arrays`` to an .npz, and ``images`` to
            a folder.
        images: (N, C, H, W) in [0, 1].
        names: of the files in a folder, without .png.
        grid: returns the picture.
        arrays: by their names in the file.
    """
    path = Path(output)
    if output.endswith(".png"):
        canvas.save_png(path, canvas.draw(grid()))
    elif output.endswith(".npz"):
        write_npz(path, arrays)
    else:
        for image, name in zip(images, names, strict=True):
            canvas.save_png(path / f"{name}.png", canvas.to_image(image))


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays atomically; equal arrays give equal files."""
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, values in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.save(file, values, allow_pickle=False)


def in_rows(images: Tensor, columns: int) -> Tensor:
    """Arranges images (N, C, H, W) in rows: (R, columns, C, H, W); the rest is white."""
    rows = math.ceil(len(images) / columns)
    white = images.new_ones(rows * columns - len(images), *images.shape[1:])
    return torch.cat([images, white]).unflatten(0, (rows, columns))


def pairs_grid(x: Tensor, reconstructions: Tensor, subtitle: str) -> Grid:
    """Draws each image beside its reconstruction, (N, C, H, W) each."""
    columns = 2 * min(PAIRS_PER_ROW, len(x))
    images = in_rows(torch.stack([x, reconstructions], 1).flatten(0, 1), columns)
    title = "Images x, and their reconstructions E[x|z] at z = E[z|x]"
    return Grid(images, title, subtitle, columns=("x", "E[x|z]") * (columns // 2))
