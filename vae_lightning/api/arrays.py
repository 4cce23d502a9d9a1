"""Checks the images and labels that a program hands over.

Shapes: N images, C H W of an image, D values of a vector.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from vae_lightning.checks.errors import ConfigError
from vae_lightning.data.convert import as_numpy
from vae_lightning.data.sources.arrays import LARGE_BYTES, Arrays

Images = Any  # an array, a tensor, or what NumPy makes an array of


def given_arrays(x: Images | Mapping[str, Images] | None, labels: object) -> Arrays | None:
    """Copies of the images and labels, as arrays with the names that data=arrays gives them.

    Args:
        x: images (N, H, W), (N, H, W, C) or (N, C, H, W), or vectors (N, D); or a mapping of
            ``train``, ``val``, ``test``, ``train_labels`` and so on; None: there are none.
        labels: (N,), integers or texts; None: there are none.

    Raises ConfigError for what is no array of numbers or texts, and for more than 1 GiB. Their
    shapes and values are checked when the data set is built.
    """
    if x is None:
        if labels is not None:
            raise ConfigError("labels: must be given with x")
        return None
    if isinstance(x, Mapping):
        if "train" not in x or labels is not None:
            raise ConfigError(
                "x: must be an array, or a mapping with train and possibly val, test, train_labels,"
                " val_labels and test_labels; labels is for an array alone"
            )
        given = {str(name): value for name, value in x.items()}
    else:
        given = {"x": x} if labels is None else {"x": x, "labels": labels}
    return {name: as_array(value, name) for name, value in given.items()}


def as_array(values: object, name: str) -> np.ndarray:
    """A copy of the values, which the caller may change afterwards."""
    try:
        found = as_numpy(values) if isinstance(values, Tensor) else np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise ConfigError(f"{name}: must be an array of numbers ({error})") from error
    if found.dtype == object and name.endswith("labels"):
        found = found.astype(str)
    if found.dtype.kind not in "biufUS":
        raise ConfigError(f"{name}: must hold numbers, but its type is {found.dtype}")
    if found.nbytes > LARGE_BYTES:
        raise ConfigError(
            f"{name}: must take at most 1 GiB, but takes {found.nbytes / 2**30:.1f} GiB; write it"
            " to a .npy file and give data=arrays data.root=FILE, which is read when it is needed"
        )
    return found.copy()
