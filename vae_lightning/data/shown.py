"""What pictures show of a data set: colors, names, and which images."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vae_lightning import rng
from vae_lightning.data.images import ImageData
from vae_lightning.networks import Condition

MOST_PIXELS = 50_000_000  # of all images that a picture is made from; 200 MB in float32


def shown_count(count: int, pixels: int) -> int:
    """At most ``count`` images; fewer if they have so many pixels that memory would not suffice."""
    return max(1, min(count, MOST_PIXELS // pixels))


def shown_images(data: ImageData, count: int) -> tuple[Tensor, Condition, Tensor]:
    """At most ``count`` test images x (B, C, H, W) in [0, 1], their condition and labels (B,).

    They are in a random order, always the same one, because images may be sorted by class.
    """
    generator = rng.generator("cpu", 0, "shown")
    index = torch.randperm(data.images_in("test"), generator=generator)[:count]
    return (*data.inputs("test", index), data.labels["test"][index])


def label_names(class_names: Sequence[str], count: int) -> list[str]:
    """A name for each of the labels below ``count``: that of its class, or its number."""
    if len(class_names) < count:
        return [str(label) for label in range(count)]
    return list(class_names)


def is_vector(images: Tensor) -> bool:
    """Whether (..., C, H, W) holds vectors: one channel and one row of several values."""
    channels, height, width = images.shape[-3:]
    return channels == 1 and height == 1 and width > 1


def lines(vectors: Tensor, height: int, width: int) -> Tensor:
    """Pictures of vectors (..., 1, 1, D) in [0, 1] as black lines on white, 1 at the top.

    Returns (..., 1, height, width). The values lie at equal distances, and are joined.
    """
    position = torch.linspace(0, vectors.shape[-1] - 1, width + 1)
    left = position.floor().long().clamp(max=vectors.shape[-1] - 2)
    values = torch.lerp(vectors[..., left], vectors[..., left + 1], position - left)
    rows = (1 - values.clamp(0, 1)) * (height - 1)  # (..., 1, 1, width + 1)
    top, bottom = rows[..., :-1].minimum(rows[..., 1:]), rows[..., :-1].maximum(rows[..., 1:])
    row = torch.arange(height)[:, None]
    return ((row < top - 0.5) | (row > bottom + 0.5)).float()


def visible(images: Tensor) -> Tensor:
    """Images (..., C, H, W) as gray or red, green and blue images in [0, 1]: (..., 1 or 3, H, W).

    One channel is gray; three are red, green and blue. A second or fourth channel is the opacity
    alpha, and the image is drawn over white: alpha color + 1 - alpha. Of more than four channels,
    the first three are shown.
    """
    images = images.clamp(0, 1)
    channels = images.shape[-3]
    colors = images[..., : 1 if channels < 3 else 3, :, :]
    if channels not in (2, 4):
        return colors
    return torch.lerp(torch.ones_like(colors), colors, images[..., -1:, :, :])
