"""Fingerprints of images and labels: which data a run has seen, and whether files are damaged.

They are computed from the content each time, which takes about 50 ms for MNIST, so that no damage
can hide behind an unchanged size and time.
"""

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from vae_lightning.checks.errors import ConfigError

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
# split -> the names of its images and labels
FILES = {
    "train": (TRAIN_IMAGES, TRAIN_LABELS),
    "val": ("val-images", "val-labels"),
    "test": (TEST_IMAGES, TEST_LABELS),
}


class Part(NamedTuple):
    """Number and fingerprint of the images, or labels, of one file."""

    number: int
    sha256: str


# The published files, by the name of the data set; those of KMNIST are known as archives only.
PUBLISHED: dict[str, dict[str, Part]] = {
    "mnist": {
        TRAIN_IMAGES: Part(
            60_000, "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757"
        ),
        TRAIN_LABELS: Part(
            60_000, "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13"
        ),
        TEST_IMAGES: Part(
            10_000, "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161"
        ),
        TEST_LABELS: Part(
            10_000, "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5"
        ),
    },
    "fashion_mnist": {
        TRAIN_IMAGES: Part(
            60_000, "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012"
        ),
        TRAIN_LABELS: Part(
            60_000, "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7"
        ),
        TEST_IMAGES: Part(
            10_000, "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a"
        ),
        TEST_LABELS: Part(
            10_000, "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9"
        ),
    },
}


def of(values: Tensor) -> Part:
    """The number of images or labels, and the SHA-256 of their bytes."""
    content = values.to(torch.uint8) if is_byte(values) else values
    return Part(len(values), hashlib.sha256(content.contiguous().cpu().numpy().data).hexdigest())


def is_byte(values: Tensor) -> bool:
    """Whether all values are integers that fit into a byte, as they are in an IDX file."""
    if values.dtype == torch.uint8:
        return True
    return not values.is_floating_point() and not bool(((values < 0) | (values > 255)).any())


def combined(parts: Mapping[str, Part]) -> str:
    """One fingerprint of all parts."""
    return hashlib.sha256(" ".join(part.sha256 for part in parts.values()).encode()).hexdigest()


def check_parts(name: str, root: str, parts: Mapping[str, Part], expected: str | None) -> None:
    """Raises ConfigError for damaged files, or for other data than a run was trained on.

    Args:
        name: of the data set.
        root: where the files are, for the message.
        parts: what the files hold.
        expected: the combined fingerprint that a run has recorded; None for a new run.

    A file of a known data set is damaged if it has the published number of images and another
    content. A file with another number of images may be a selection: ``is_published`` tells that.
    """
    if expected is not None and combined(parts) != expected:
        raise ConfigError(
            f"data.root={root}: must hold the images that the run was trained on;"
            f" those of {name} there differ from them (data.sha256={expected})"
        )
    numbers = {part.number for part in PUBLISHED.get(name, {}).values()}
    for file, published in PUBLISHED.get(name, {}).items():
        found = parts[file]
        if found != published and found.number in numbers:
            raise ConfigError(
                f"data.root={root}: {file} is damaged or is not the published file of {name};"
                " replace it, or give other images a name of their own: data.name=NAME"
            )


def is_published(name: str, parts: Mapping[str, Part]) -> bool:
    """Whether these are the published files of a data set, as far as these are known."""
    return name not in PUBLISHED or PUBLISHED[name] == parts
