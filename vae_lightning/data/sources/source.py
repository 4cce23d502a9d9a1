"""What a source of images provides: pools of images, which are divided into splits afterwards.

Shapes: N images, C H W of an image, F factors.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from vae_lightning.checks.errors import ConfigError
from vae_lightning.data.convert import Shape

UNORDERED = "unordered_factors"  # where a data set keeps the positions of such factors


class StoredImages(NamedTuple):
    """Images in files, which are read when they are needed."""

    names: Sequence[str]  # one for each image
    shape: Shape
    # positions -> images (C, H, W), uint8; None for one that cannot be read
    read: Callable[[Sequence[int]], Sequence[Tensor | None]]
    key: str  # identifies the files and how they are read


class Pool(NamedTuple):
    """Images that belong together, such as the training images, and what is known about them."""

    images: Tensor | StoredImages  # uint8 (N, C, H, W)
    labels: Sequence[object] | np.ndarray | Tensor | None = None  # (N,), numbers or texts
    factors: Tensor | None = None  # (N, F), integers
    files: tuple[str, ...] = ()  # the name of each file
    class_names: tuple[str, ...] = ()  # what labels that are numbers mean
    unordered_factors: tuple[int, ...] = ()  # positions of factors whose values have no order

    @property
    def number(self) -> int:
        """Number of images."""
        images = self.images
        return len(images.names if isinstance(images, StoredImages) else images)

    @property
    def shape(self) -> Shape:
        """C, H, W."""
        if isinstance(self.images, StoredImages):
            return self.images.shape
        channels, height, width = self.images.shape[1:]
        return channels, height, width


class Part(NamedTuple):
    """The images of one split."""

    images: Tensor  # uint8 (N, C, H, W); of a large data set, a file that is mapped into memory
    labels: Tensor  # (N,), int64; 0 for images without labels
    factors: Tensor | None = None  # (N, F), the values that generated each image
    files: tuple[str, ...] = ()

    def take(self, index: Tensor) -> "Part":
        """The part with the images at these positions, in ascending order."""
        if len(index) == len(self.images):
            return self
        chosen = index.sort().values
        return Part(
            self.images[chosen],
            self.labels[chosen],
            None if self.factors is None else self.factors[chosen],
            tuple(self.files[position] for position in chosen.tolist()) if self.files else (),
        )


class Source(Protocol):
    """Finds the images of a data set."""

    may_overlap: bool  # whether nobody has checked that test images are no training images

    def pools(self, shape: Sequence[int] | None) -> Mapping[str, Pool]:
        """The images, by the names train, val and test; train is required.

        Args:
            shape: C, H, W that the images must have; None: what is found.

        Raises ConfigError if they are missing, damaged, or not what the options say.
        """
        ...


def to_factors(values: object, name: str, count: int) -> Tensor:
    """Returns factors as a tensor; raises ConfigError unless each image has a row of integers."""
    factors = np.asarray(values)
    if factors.shape[:1] != (count,) or factors.ndim != 2 or factors.dtype.kind not in "iu":
        raise ConfigError(
            f"{name}: must be integers of shape ({count}, F), but is {factors.dtype} of shape"
            f" {list(factors.shape)}"
        )
    return torch.from_numpy(factors.astype(np.int64))


def to_positions(values: object, name: str, factors: Tensor | None) -> tuple[int, ...]:
    """Returns positions of factors (N, F); raises ConfigError unless they are below F."""
    positions = np.asarray(values)
    number = 0 if factors is None else factors.shape[1]
    is_list = positions.ndim == 1 and (positions.dtype.kind in "iu" or not positions.size)
    if not is_list or any(not 0 <= position < number for position in positions):
        raise ConfigError(
            f"{name}: must be a list of positions of factors, 0 to F - 1, where F = {number}"
        )
    return tuple(map(int, positions))


def empty(shape: Shape) -> Part:
    """A split without images."""
    return Part(torch.empty(0, *shape, dtype=torch.uint8), torch.empty(0, dtype=torch.int64))
