"""Batches of the images of a split, for evaluation."""

from collections.abc import Iterator

import torch
from torch import Tensor

from vae_lightning.data.images import ImageData
from vae_lightning.networks import Condition

BATCH = 100  # images per batch


def batches(
    data: ImageData, split: str, size: int = BATCH
) -> Iterator[tuple[Tensor, Tensor, Condition]]:
    """Yields positions in the split (B,), images (B, C, H, W) in [0, 1], and their condition."""
    images, condition = data.evaluation_images(split), data.condition(split)
    for index in torch.arange(len(images), device=images.device).split(size):
        yield index, images[index].float() / 255, condition.take(index)
