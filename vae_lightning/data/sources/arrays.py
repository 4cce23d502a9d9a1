"""Images in files of arrays: .npy, .npz and .safetensors.

Shapes: N images, C H W of an image.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated
from zipfile import BadZipFile

import numpy as np
from torch import Tensor

from vae_lightning.checks.errors import ConfigError
from vae_lightning.checks.ranges import AnyOf, Choice, List, Number, Option
from vae_lightning.data.convert import LAYOUTS, Format, find_format
from vae_lightning.data.sources.source import (
    UNORDERED,
    Pool,
    StoredImages,
    to_factors,
    to_positions,
)

ENDINGS = (".npz", ".npy", ".safetensors")
SPLITS = ("train", "val", "test")
LARGE_BYTES = 1 << 30  # larger arrays are converted piece by piece

Arrays = Mapping[str, np.ndarray]  # by their names


class ArrayImages:
    """Images in a file, or in a folder with one file for each array.

    Arrays ``train``, ``val`` and ``test`` hold images; ``train_labels`` and ``train_factors``, and
    the same with val and test, belong to them. A single array of images, with any name, and
    ``labels`` and ``factors``, is divided. ``unordered_factors`` holds the positions of the factors
    whose values have no order.

    Args:
        root: the file, or the folder.
        value_range: the values of black and white.
        layout: the order of the axes: see data.convert.
    """

    may_overlap = True

    def __init__(
        self,
        root: Path,
        value_range: Annotated[
            Sequence[float] | None,
            Option(
                "values of black and white; null: 0 and 255 of uint8, 0 and 1 of floats",
                AnyOf((List(2, Number()), Choice((None,)))),
            ),
        ] = None,
        layout: Annotated[
            str | None,
            Option("order of the axes of arrays; null: recognized", Choice((*LAYOUTS, None))),
        ] = None,
    ) -> None:
        self.root, self.value_range, self.layout = Path(root), value_range, layout
        if value_range is not None and value_range[0] >= value_range[1]:
            raise ConfigError(f"data.range={list(value_range)}: must be [LOW, HIGH], LOW < HIGH")

    def pools(self, shape: Sequence[int] | None) -> Mapping[str, Pool]:
        """The images, by the names of the splits; see ``Source``."""
        arrays = self.arrays()
        if "train" in arrays:
            known = {f"{split}{end}" for split in SPLITS for end in ("", "_labels", "_factors")}
            known.add(UNORDERED)
            owned = {split: (split, f"{split}_") for split in SPLITS if split in arrays}
        else:
            belong = {"labels", "factors", UNORDERED}
            first = next((name for name in arrays if name not in belong), None)
            known = {first, *belong}
            owned = {"train": (first, "")} if first else {}
        if not owned or any(name not in known for name in arrays):
            raise ConfigError(
                f"{self.place}: must have arrays train, val and test, with train_labels"
                " and so on, or one array of images and possibly labels; it has"
                f" {', '.join(arrays) or 'none'}"
            )
        pools = {
            split: self.pool(arrays, name, prefix, shape) for split, (name, prefix) in owned.items()
        }
        if UNORDERED in arrays:
            factors = next(
                (each.factors for each in pools.values() if each.factors is not None), None
            )
            positions = to_positions(arrays[UNORDERED], self.called(UNORDERED), factors)
            pools["train"] = pools["train"]._replace(unordered_factors=positions)
        return pools

    @property
    def place(self) -> str:
        """Where the arrays are, for messages."""
        return f"data.root={self.root}"

    def arrays(self) -> Arrays:
        """The arrays by their names."""
        return read_arrays(self.root)

    def called(self, name: str) -> str:
        """What an array is called in messages."""
        return f"{name} in {self.root.name}"

    def pool(
        self,
        arrays: Arrays,
        name: str,
        prefix: str,
        shape: Sequence[int] | None,
    ) -> Pool:
        """The images of an array, with the labels and factors whose names have this prefix."""
        values = arrays[name]
        kind = find_format(values, self.called(name), shape, self.value_range, self.layout)
        images: Tensor | StoredImages
        if values.nbytes > LARGE_BYTES:
            status = self.root.stat()
            key = repr((str(self.root), status.st_size, status.st_mtime_ns, name, kind))
            names = [f"{name}[{position}]" for position in range(len(values))]
            images = StoredImages(names, kind.shape(values), partial(read_rows, values, kind), key)
        else:
            images = kind.images(values)
        factors = arrays.get(f"{prefix}factors")
        if factors is not None:
            factors = to_factors(factors, self.called(f"{prefix}factors"), len(values))
        return Pool(images, arrays.get(f"{prefix}labels"), factors)


class GivenArrays(ArrayImages):
    """Images in arrays that a program holds, with the names that they would have in a file.

    Args:
        arrays: by their names.
        value_range, layout: see ArrayImages.
    """

    def __init__(
        self,
        arrays: Arrays,
        value_range: Sequence[float] | None = None,
        layout: str | None = None,
    ) -> None:
        super().__init__(Path(), value_range, layout)
        self.given = arrays

    @property
    def place(self) -> str:
        """Where the arrays are, for messages."""
        return "x"

    def arrays(self) -> Arrays:
        """The arrays by their names."""
        return self.given

    def called(self, name: str) -> str:
        """What an array is called in messages."""
        return name


def read_rows(values: np.ndarray, kind: Format, positions: Sequence[int]) -> list[Tensor | None]:
    """The images at these positions: uint8 (C, H, W) each."""
    return list(kind.images(values[np.asarray(positions)]))


def read_arrays(root: Path, key: str | None = None) -> dict[str, np.ndarray]:
    """The arrays of a file, or of all files in a folder, by their names.

    ``key`` is what the path is called in messages. Raises ConfigError if there are none, and for a
    file that is damaged or holds Python objects.
    """
    where = key or f"data.root={root}"
    if root.is_dir():
        paths = sorted(path for path in root.iterdir() if path.suffix in ENDINGS)
    else:
        paths = [root] if root.suffix in ENDINGS and root.is_file() else []
    if not paths:
        raise ConfigError(
            f"{where}: must be an array file ({', '.join(ENDINGS)}), or a folder with such files"
        )
    found: dict[str, np.ndarray] = {}
    for path in paths:
        try:
            found |= read_file(path)
        except (ValueError, OSError, BadZipFile, EOFError) as error:
            raise ConfigError(
                f"{where}: must hold arrays of numbers, without Python objects ({error})"
            ) from error
    return found


def read_file(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file; one in a .npy file is mapped into memory."""
    if path.suffix == ".npy":
        return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False)}
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
