"""Converts images and labels from any array to what a model reads, or says why it cannot.

All images that enter go through here: those of data sets and those that a user hands to a run.
Shapes: N images, C H W of an image, D values of a vector.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vae_lightning.checks.errors import ConfigError

CHANNELS = range(1, 5)  # gray, gray and alpha, color, color and alpha
LAYOUTS = ("NHW", "NHWC", "NCHW", "ND")

Array = np.ndarray | Tensor
Shape = tuple[int, int, int]


class Format(NamedTuple):
    """How an array holds images: the order of its axes, and the values of black and white."""

    layout: str  # one of LAYOUTS
    low: float
    high: float

    def shape(self, values: Array) -> Shape:
        """C, H, W of the images of an array."""
        _, *found = values.shape
        if self.layout == "NHWC":
            found = [found[2], *found[:2]]
        channels, height, width = [1] * (3 - len(found)) + found
        return channels, height, width

    def arranged(self, values: Array) -> Tensor:
        """The images of an array with their values: (N, C, H, W)."""
        pixels = values
        if not isinstance(pixels, Tensor):  # PyTorch reads arrays in C order that can be written
            pixels = torch.from_numpy(np.require(pixels, requirements=("C", "W")))
        if self.layout == "NHWC":
            pixels = pixels.permute(0, 3, 1, 2)
        return pixels.reshape(len(pixels), *self.shape(values))

    def images(self, values: Array) -> Tensor:
        """The images of an array as uint8, 0 to 255: (N, C, H, W)."""
        pixels = self.arranged(values)
        if pixels.dtype == torch.uint8 and (self.low, self.high) == (0, 255):
            return pixels
        scaled = (pixels.double() - self.low) * (255 / (self.high - self.low))
        return scaled.round().to(torch.uint8)

    def scaled(self, values: Array) -> Tensor:
        """The images of an array as float32, 0 to 1: (N, C, H, W)."""
        pixels = self.arranged(values).float()
        return pixels.sub(self.low).div_(self.high - self.low)


def find_format(
    values: Array,
    name: str,
    shape: Sequence[int] | None = None,
    value_range: Sequence[float] | None = None,
    layout: str | None = None,
) -> Format:
    """How an array holds images.

    Args:
        values: the images, with N as their first axis.
        name: of the array, for messages.
        shape: C, H, W that the images must have; None: any.
        value_range: the values of black and white; None: 0 and 255 of uint8, 0 and 1 of floats.
        layout: one of LAYOUTS; None: recognized by the sizes.

    Raises ConfigError, with what was found and what to write, for anything else.
    """
    order = layout or find_layout(tuple(values.shape), name, shape)
    found = Format(order, *find_range(values, name, value_range))
    if len(found.layout) != values.ndim:
        raise ConfigError(
            f"data.layout={layout}: must fit {name}, which has {values.ndim} axes:"
            f" {sizes(values.shape)}"
        )
    if shape is not None and found.shape(values) != tuple(shape):
        raise ConfigError(
            f"data.image_shape={list(shape)}: must be the channels, height and width of the images;"
            f" {name} has {list(found.shape(values))}"
        )
    return found


def find_layout(found: tuple[int, ...], name: str, shape: Sequence[int] | None) -> str:
    """The order of the axes of an array of images, recognized by their sizes."""
    if not found or 0 in found:
        raise ConfigError(f"{name}: must hold at least one image, but has the shape {list(found)}")
    if len(found) == 2:
        return "ND"
    if len(found) == 3:
        return "NHW"
    if len(found) == 4:
        wanted = None if shape is None else tuple(shape)
        fits = {
            "NCHW": found[1] in CHANNELS and wanted in (None, found[1:]),
            "NHWC": found[3] in CHANNELS and wanted in (None, (found[3], *found[1:3])),
        }
        chosen = [layout for layout, is_possible in fits.items() if is_possible]
        if len(chosen) == 1 or set(found[1:]) == {1}:  # of a single value, both are the same
            return chosen[0]
        if chosen:
            raise ConfigError(
                f"{name}: has the shape {sizes(found)}, in which the axis of the channels may be"
                f" the second or the last: set data.image_shape={list(found[1:])} or"
                f" data.image_shape={[found[3], *found[1:3]]}, or data.layout of data=arrays"
            )
        if wanted is not None and (found[1] in CHANNELS or found[3] in CHANNELS):
            return "NCHW" if found[1] in CHANNELS else "NHWC"  # the shape is compared afterwards
    raise ConfigError(
        f"{name}: must be N images with 1 to 4 channels, (N, H, W), (N, H, W, C) or (N, C, H, W),"
        f" or vectors (N, D), but has the shape {sizes(found)}"
    )


def find_range(
    values: Array, name: str, given: Sequence[float] | None = None, remedy: str = ""
) -> tuple[float, float]:
    """The values of black and white; raises ConfigError if they must be given or do not fit.

    The message ends with the remedy; by default, it says how to give the values.
    """
    dtype = str(values.dtype).removeprefix("torch.")
    if not (dtype == "bool" or dtype.startswith(("uint", "int", "float", "bfloat"))):
        raise ConfigError(f"{name}: must hold numbers, but its type is {dtype}")
    if dtype == "bool":
        return 0, 1
    low, high = extent(values, name)
    found = f"{dtype} from {low:g} to {high:g}"
    if given is not None:
        if low < given[0] or high > given[1]:
            raise ConfigError(f"data.range={list(given)}: must contain {name}, which is {found}")
        return given[0], given[1]
    if dtype == "uint8":
        if high == 1:
            raise ConfigError(
                f"{name}: holds only 0 and 1, which would be nearly black:"
                f" {remedy or 'set data.range=[0,1]'}"
            )
        return 0, 255
    if dtype.startswith(("float", "bfloat")) and low >= 0 and high <= 1:
        return 0, 1
    write = (
        "set data.range=[LOW,HIGH] to the values of black and white, for example"
        f" data.range=[{low:g},{high:g}]"
    )
    raise ConfigError(
        f"{name}: must be uint8 in [0, 255] or float in [0, 1], but is {found}: {remedy or write}"
    )


def extent(values: Array, name: str) -> tuple[float, float]:
    """The smallest and the largest value; raises ConfigError for one that is not finite."""
    array = as_numpy(values)
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        finite = np.isfinite(array.reshape(len(array), -1)).all(1)
        wrong = np.flatnonzero(~finite)
        raise ConfigError(
            f"{name}: must be finite, but {len(wrong)} of its {len(values)} images hold NaN or"
            f" infinity, the first at index {wrong[0]}"
        )
    return low, high


def as_numpy(values: Array) -> np.ndarray:
    """The same values for NumPy, which compares integers of all types, unlike PyTorch."""
    if not isinstance(values, Tensor):
        return values
    tensor = values.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def sizes(shape: Sequence[int]) -> str:
    """A shape in words, as in 60000 x 28 x 28."""
    return " x ".join(map(str, shape))


class Labels(NamedTuple):
    """Labels as numbers from 0 on: (N,), int64, and the names of the classes if they have any."""

    values: Tensor
    names: tuple[str, ...] = ()
    remark: str = ""  # what a user should know


def unlabeled(count: int, remark: str = "") -> Labels:
    """The labels of images without labels: 0 for each."""
    return Labels(torch.zeros(count, dtype=torch.int64), (), remark)


def to_labels(values: object, count: int, name: str) -> Labels:
    """Labels from a list, array or tensor of integers or texts; None means that there are none.

    Texts are numbered in alphabetical order. Numbers that are not integers cannot be classes: such
    images count as unlabeled, with a remark. Raises ConfigError for another number of labels.
    """
    if values is None:
        return unlabeled(count)
    found = np.asarray(values)
    if len(found) != count:
        raise ConfigError(f"{name}: must hold one label per image, {count}, but has {len(found)}")
    if found.ndim != 1:
        shape = list(found.shape)
        return unlabeled(count, f"the labels have the shape {shape} and are not used as classes")
    if found.dtype.kind in "OUS":
        names, numbers = np.unique(found.astype(str), return_inverse=True)
        return Labels(torch.from_numpy(numbers.astype(np.int64)), tuple(map(str, names)))
    whole = found.astype(np.int64)
    if (whole != found).any():
        return unlabeled(count, f"the labels are {found.dtype} and are not used as classes")
    if whole.min(initial=0) < 0:
        names, numbers = np.unique(whole, return_inverse=True)
        return Labels(torch.from_numpy(numbers.astype(np.int64)), tuple(map(str, names)))
    return Labels(torch.from_numpy(whole))
