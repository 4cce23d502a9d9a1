"""Batches of the images of a split, and the training images that evaluation uses.

The memory is bounded for data sets of any size: images become float32 batch by batch, and what has
to be learned from training images is learned from a part of them.
Shapes: N images, C H W of an image.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from vae_lightning.data.images import ImageData
from vae_lightning.data.splits import random_part
from vae_lightning.networks import Condition

BATCH = 100  # images per batch
PIXELS_AT_ONCE = 12_000_000  # of a larger batch: 48 MB as float32
# training images that classifiers learn from
MOST_IMAGES, MOST_BYTES = 60_000, 250_000_000


class TrainingImages(NamedTuple):
    """The training images that evaluation uses."""

    images: Tensor  # uint8, (N, C, H, W)
    labels: Tensor  # (N,)
    condition: Condition


def batch_slices(count: int) -> Iterator[slice]:
    """Yields the parts of so many images that go through a network at once."""
    return (slice(start, start + BATCH) for start in range(0, count, BATCH))


def training_images(data: ImageData, most: int = MOST_IMAGES) -> TrainingImages:
    """Returns all training images if there are at most ``most`` and they take at most 250 MB.

    Of a larger data set, it returns as many as these limits allow, chosen at random and always the
    same ones.
    """
    images, condition = data.images["train"], data.condition("train")
    count = min(most, max(1, MOST_BYTES // images[0].numel()))
    if len(images) <= count:
        return TrainingImages(data.evaluation_images("train"), data.labels["train"], condition)
    index = random_part(len(images), count, "training_images").to(images.device)
    chosen = data.evaluation_images("train", index)
    return TrainingImages(chosen, data.labels["train"][index], condition.take(index))


def at_once(images: Tensor, size: int) -> int:
    """Returns how many of the images (N, C, H, W) a batch of at most ``size`` images may hold."""
    return min(size, max(BATCH, PIXELS_AT_ONCE // images[0].numel()))


def split_images(
    images: Tensor, condition: Condition, size: int
) -> Iterator[tuple[Tensor, Tensor, Condition]]:
    """Yields positions (B,), images (B, C, H, W) in [0, 1], and their condition."""
    for index in torch.arange(len(images), device=images.device).split(at_once(images, size)):
        yield index, images[index].float() / 255, condition.take(index)


def batches(
    data: ImageData, split: str, size: int = BATCH
) -> Iterator[tuple[Tensor, Tensor, Condition]]:
    """Yields positions in the split (B,), images (B, C, H, W) in [0, 1], and their condition."""
    return split_images(data.evaluation_images(split), data.condition(split), size)
