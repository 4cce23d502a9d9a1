"""Data sets of torchvision, and classes of users in the same style.

Shapes: N images, C H W of an image.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from vae_lightning.checks.errors import ConfigError
from vae_lightning.data.convert import find_format
from vae_lightning.data.sources.folder import common_shape, from_files, to_pixels, to_shape
from vae_lightning.data.sources.source import (
    UNORDERED,
    Pool,
    StoredImages,
    to_factors,
    to_positions,
)

# packages whose data sets have test images that are no training images
CHECKED_PACKAGES = ("torchvision", "vae_lightning")
# the names of splits, in the order of preference
TRAIN_NAMES, VAL_NAMES, TEST_NAMES = (
    ("train", "trainval", "train-standard"),
    ("val", "valid"),
    ("test",),
)
# where data sets keep their labels, and the paths of their images
LABELS = ("targets", "labels", "_labels")
PATHS = ("samples", "_samples", "_image_files", "_images")
NOT_FOUND = (RuntimeError, FileNotFoundError, AssertionError, ConfigError, EOFError, ImportError)


class TorchvisionImages:
    """The images of a data set class.

    The class is called with ``root`` and, if it has them, ``train`` or ``split``. What it makes has
    ``data``, an array of images, or gives images of PIL by their index. ``targets`` (N,), numbers
    or texts, ``factors`` (N, F), and ``unordered_factors``, the positions of those whose values
    have no order, are optional. A class with neither ``train`` nor ``split`` is divided. Its files
    are downloaded if they are missing and the class can do that.

    Args:
        dataset: the class; as a partial, with further arguments.
        root: folder of the data files.
    """

    def __init__(self, dataset: Callable[..., Any], root: Path) -> None:
        self.dataset, self.root = dataset, Path(root)
        self.cls = class_of(dataset)
        self.given: dict[str, Any] = getattr(dataset, "keywords", {})
        self.may_overlap = self.cls.__module__.split(".")[0] not in CHECKED_PACKAGES
        self.accepted = accepted_arguments(self.cls)

    def pools(self, shape: Sequence[int] | None) -> Mapping[str, Pool]:
        """The images, by the names of the splits; see ``Source``."""
        return {split: self.pool(part, shape) for split, part in self.make_splits().items()}

    def make_splits(self) -> dict[str, Any]:
        """The data set objects, by the names of the splits."""
        if "train" in self.accepted and "train" not in self.given:
            return {"train": self.make(train=True), "test": self.make(train=False)}
        if "split" not in self.accepted or "split" in self.given:
            return {"train": self.make()}
        found = {
            "train": self.first(TRAIN_NAMES),
            "val": self.first(VAL_NAMES),
            "test": self.first(TEST_NAMES),
        }
        if found["train"] is None:
            raise ConfigError(
                f"data.dataset={self.cls.__name__}: must be given one of its splits, for example"
                " data.options={split: NAME}, because it has none of the names"
                f" {', '.join(TRAIN_NAMES)}"
            )
        if found["test"] is None:  # the validation images are all that there is for a test
            found["test"], found["val"] = found["val"], None
        return {split: part for split, part in found.items() if part is not None}

    def first(self, names: Sequence[str]) -> object | None:
        """The data set object of the first split that exists; None if there is none."""
        for name in names:
            try:
                return self.make(split=name)
            except ValueError:  # torchvision's answer to an unknown split
                continue
        return None

    def make(self, **arguments: object) -> Any:  # noqa: ANN401 - any class is possible
        """A data set object; raises ConfigError if the files are missing or damaged."""
        if "root" in self.accepted:
            arguments["root"] = self.root
        try:
            return self.dataset(**arguments)
        except NOT_FOUND as error:
            if "download" not in self.accepted:
                raise self.missing(error) from error
        try:
            return self.dataset(**arguments, download=True)
        except (*NOT_FOUND, OSError) as error:
            raise self.missing(error) from error

    def missing(self, error: Exception) -> ConfigError:
        """What to say if the files cannot be had."""
        return ConfigError(
            f"data.root={self.root}: must hold the files of {self.cls.__name__}; they are missing"
            f" or damaged ({error})"
        )

    def pool(self, part: Any, shape: Sequence[int] | None) -> Pool:  # noqa: ANN401 - any class is possible
        """The images of a data set object, with what is known about them."""
        pool = self.images(part, shape)
        factors = getattr(part, "factors", None)
        if factors is None:
            return pool
        name = self.cls.__name__
        factors = to_factors(factors, f"factors of {name}", pool.number)
        unordered = getattr(part, UNORDERED, ())
        positions = to_positions(unordered, f"{UNORDERED} of {name}", factors)
        return pool._replace(factors=factors, unordered_factors=positions)

    def images(self, part: Any, shape: Sequence[int] | None) -> Pool:  # noqa: ANN401 - any class is possible
        """The images and labels of a data set object."""
        name = self.cls.__name__
        for argument in ("transform", "target_transform", "transforms"):
            if getattr(part, argument, None) is not None:
                raise ConfigError(
                    f"data.dataset.{argument}: must not be given to {name}, because images are"
                    " used as they are stored; data.image_shape resizes them and data.augment"
                    " changes them in training"
                )
        labels, names = labels_of(part), class_names_of(part)
        data = getattr(part, "data", None)
        if isinstance(data, list):
            data = np.stack([np.asarray(image) for image in data]) if data else None
        if isinstance(data, Tensor | np.ndarray):
            images = find_format(data, f"data of {name}", shape).images(data)
            return Pool(images, labels, class_names=names)
        paths = paths_of(part)
        if paths is not None:
            wanted = to_shape(shape) if shape else common_shape(paths)
            return Pool(from_files(paths, wanted), labels, None, tuple(map(str, paths)), names)
        return Pool(self.from_items(part, shape), labels, class_names=names)

    def from_items(self, part: Any, shape: Sequence[int] | None) -> StoredImages:  # noqa: ANN401 - any class is possible
        """The images that a data set object gives by their index."""
        first = image_of(part, 0, self.cls.__name__)
        channels = 1 if first.mode in ("1", "L") else 3
        wanted = to_shape(shape) if shape else (channels, first.height, first.width)

        def read(positions: Sequence[int]) -> list[Tensor | None]:
            images = [image_of(part, position, self.cls.__name__) for position in positions]
            for image in images:
                if shape is None and image.size != first.size:
                    raise ConfigError(
                        "data.image_shape=null: must be given, because the images have different"
                        f" sizes, for example {first.size} and {image.size} (width, height)"
                    )
            return [to_pixels(image, wanted) for image in images]

        names = tuple(map(str, range(len(part))))
        key = repr((self.cls.__module__, self.cls.__qualname__, str(self.root), repr(part)))
        return StoredImages(names, wanted, read, key)


def class_of(dataset: Callable[..., Any]) -> type:
    """The class of a partial."""
    cls = getattr(dataset, "func", dataset)
    assert isinstance(cls, type)
    return cls


def accepted_arguments(cls: type) -> set[str]:
    """The names of the arguments of a class, with those that it hands on to its bases."""
    found: set[str] = set()
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters
        found |= set(parameters)
        if not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
            break
    return found


def labels_of(part: Any) -> Any:  # noqa: ANN401 - any class is possible
    """The labels of a data set object; None if it has none."""
    found = next((getattr(part, name) for name in LABELS if hasattr(part, name)), None)
    if found is None:
        pairs = next((getattr(part, name) for name in PATHS if hasattr(part, name)), [])
        if pairs and all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
            return [label for _, label in pairs]
        return None
    if isinstance(found, Tensor | np.ndarray) and found.ndim == 2 and found.shape[1] > 1:
        # QMNIST keeps further columns next to the label
        item = part[0][1]
        if isinstance(item, int) and item == int(found[0, 0]):
            return found[:, 0]
    return found


def class_names_of(part: Any) -> tuple[str, ...]:  # noqa: ANN401 - any class is possible
    """The names of the classes; of a name such as "0 - zero", the first part."""
    names = getattr(part, "classes", None)
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return ()
    return tuple(name.split(" - ")[0] for name in names)


def paths_of(part: Any) -> list[Path] | None:  # noqa: ANN401 - any class is possible
    """The paths of the images of a data set object; None if it does not keep them."""
    for name in PATHS:
        kept = getattr(part, name, None)
        if not isinstance(kept, list) or len(kept) != len(part):
            continue
        paths = [Path(str(each[0] if isinstance(each, tuple) else each)) for each in kept]
        if all(path.is_file() for path in paths):
            return paths
    return None


def image_of(part: Any, position: int, name: str) -> Image.Image:  # noqa: ANN401 - any class is possible
    """The image at a position of a data set object; raises ConfigError if it is none of PIL."""
    item = part[position]
    image = item[0] if isinstance(item, tuple) else item
    if not isinstance(image, Image.Image):
        raise ConfigError(
            f"data.dataset={name}: must have an array data (N, H, W) or (N, C, H, W), or give"
            f" images of PIL by their index, but gives {type(image).__name__}"
        )
    return image
