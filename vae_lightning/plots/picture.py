"""What a picture shows, apart from how it is drawn: canvas draws PNG, figure draws PDF and SVG.

Shapes: R rows, C columns, D channels, H W of an image, N points.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """A grid of images, with names of its rows, columns and axes."""

    images: Tensor  # (R, C, D, H, W) in [0, 1]
    title: str
    subtitle: str
    rows: Sequence[str] = ()
    columns: Sequence[str] = ()
    x_axis: str = ""
    y_axis: str = ""
    size: int = 56  # pixels of the longer side of an image, about; a larger image keeps its size


@dataclass(frozen=True)
class Scatter:
    """Points of a plane, colored by label, and each label at the median of its points."""

    points: Tensor  # (N, 2)
    labels: Tensor  # (N,)
    names: Sequence[str]  # what each label is called
    title: str
    subtitle: str
    x_axis: str
    y_axis: str


@dataclass(frozen=True)
class Bars:
    """One horizontal bar for each value."""

    values: Sequence[float]
    names: Sequence[str]
    title: str
    subtitle: str
    x_axis: str


Picture = Grid | Scatter | Bars
