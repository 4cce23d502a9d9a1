"""Random changes of training images, on the device of the images.

Shapes: B images, C H W of an image.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

CROP_SHARE = 8  # a crop moves an image by at most this part of its height and width
MOST_DEGREES = 10.0  # of a rotation


def flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Mirrors half of the images x (B, C, H, W), left to right."""
    chosen = torch.rand(len(x), 1, 1, 1, generator=generator, device=x.device) < 0.5
    return torch.where(chosen, x.flip(-1), x)


def flip_vertical(x: Tensor, generator: torch.Generator) -> Tensor:
    """Mirrors half of the images x (B, C, H, W), top to bottom."""
    return flip(x.mT, generator).mT


def crop(x: Tensor, generator: torch.Generator) -> Tensor:
    """Moves each image x (B, C, H, W) by whole pixels, and repeats the pixels of its border."""
    places = []
    for size in x.shape[-2:]:
        most = size // CROP_SHARE
        shift = torch.randint(-most, most + 1, (len(x), 1), generator=generator, device=x.device)
        places.append((torch.arange(size, device=x.device) + shift).clamp(0, size - 1))
    rows, columns = places[0][:, None, :, None], places[1][:, None, None, :]
    images = torch.arange(len(x), device=x.device)[:, None, None, None]
    channels = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
    return x[images, channels, rows, columns]


def rotate(x: Tensor, generator: torch.Generator) -> Tensor:
    """Rotates each image x (B, C, H, W) by up to MOST_DEGREES, and repeats its border."""
    uniform = 2 * torch.rand(len(x), generator=generator, device=x.device) - 1
    angle = uniform * (MOST_DEGREES * torch.pi / 180)
    height, width = x.shape[-2:]
    zero, ratio = torch.zeros_like(angle), height / width
    rows = [
        torch.stack([angle.cos(), -angle.sin() * ratio, zero], -1),
        torch.stack([angle.sin() / ratio, angle.cos(), zero], -1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


# the order in which they are applied
CHANGES: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "flip": flip,
    "flip_vertical": flip_vertical,
    "rotate": rotate,
    "crop": crop,
}


def augment(x: Tensor, names: Sequence[str], generator: torch.Generator) -> Tensor:
    """Changes images x (B, C, H, W) in [0, 1] at random by the named CHANGES."""
    for name, change in CHANGES.items():
        if name in names:
            x = change(x, generator)
    return x
