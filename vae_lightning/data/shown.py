"""What pictures show of a data set: which colors, and how many images."""

import torch
from torch import Tensor

MOST_PIXELS = 50_000_000  # of all images that a picture is made from; 200 MB in float32


def shown_count(count: int, pixels: int) -> int:
    """At most ``count`` images; fewer if they have so many pixels that memory would not suffice."""
    return max(1, min(count, MOST_PIXELS // pixels))


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
