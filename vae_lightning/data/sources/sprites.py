"""Images of simple shapes, generated from known factors; they require no download."""

from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vae_lightning import rng
from vae_lightning.checks.ranges import AnyOf, Choice, Integer, Option

SIZE = 64  # pixels
FACTORS = {"shape": 3, "scale": 4, "orientation": 8, "x": 12, "y": 12}  # name -> number of values
TEST_SHARE = 5  # a fifth of all images is the test set
CHUNK = 1000  # images that are drawn at once


class Sprites(Dataset):
    """White squares, ellipses and hearts on black, 64x64, one for each combination of the factors.

    The factors are shape, scale, orientation and position, as in dSprites,
    https://github.com/google-deepmind/dsprites-dataset, with fewer values: 13,824 images. The
    orientations of a shape are spread over its period, so that different factors give different
    images. With ``count``, so many combinations are drawn at random, all of them different if there
    are enough. A fixed random fifth is the test set. The interface is that of torchvision:
    ``data`` (N, 64, 64), uint8, and ``targets`` (N,), the shape; ``factors`` (N, 5) holds the index
    of the value of each factor. ``root`` is not used.
    """

    unordered_factors = (0,)  # the shape

    def __init__(
        self,
        root: str | Path,
        train: bool = True,
        count: Annotated[
            int | None,
            Option(
                "number of images; null: one for each combination of the factors",
                AnyOf((Integer(2), Choice((None,)))),
            ),
        ] = None,
    ) -> None:
        factors = torch.cartesian_prod(*(torch.arange(values) for values in FACTORS.values()))
        generator = rng.generator("cpu", 0, "sprites")
        if count is not None and count > len(factors):
            order = torch.randint(len(factors), (count,), generator=generator)
        else:
            order = torch.randperm(len(factors), generator=generator)[:count]
        test_size = max(1, len(order) // TEST_SHARE)
        chosen = (order[test_size:] if train else order[:test_size]).sort().values
        self.factors = factors[chosen]
        self.targets = self.factors[:, 0]
        self.data = torch.cat([draw(part) for part in self.factors.split(CHUNK)])

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.data[index], self.targets[index]


def draw(factors: Tensor) -> Tensor:
    """Returns the images of factors (N, 5), with smooth edges, uint8: (N, 64, 64)."""
    shape, scale, orientation, x, y = factors.float().unsqueeze(-1).unsqueeze(-1).unbind(1)
    period = torch.tensor([torch.pi / 2, torch.pi, 2 * torch.pi])[shape.long()]
    angle = orientation / FACTORS["orientation"] * period
    radius = 7 + 2 * scale  # pixels, half the size of the shape
    column, row = (17 + 30 * value / (FACTORS["x"] - 1) for value in (x, y))  # the center
    axis = torch.arange(SIZE) + 0.5
    right, down = axis.view(1, 1, SIZE) - column, axis.view(1, SIZE, 1) - row
    u = (right * angle.cos() + down * angle.sin()) / radius
    v = (down * angle.cos() - right * angle.sin()) / radius
    # each is negative within its shape, and grows by about 1 over the radius
    square = torch.maximum(u.abs(), v.abs()) - 0.8
    ellipse = (u.square() + (2 * v).square()).sqrt() - 1
    u, v = 1.4 * u, 1.4 * v - 0.3
    heart = ((u.square() + (v + 0.6 * u.abs().sqrt()).square()).sqrt() - 0.9) / 1.4
    distance = torch.where(shape == 0, square, torch.where(shape == 1, ellipse, heart))
    return (255 * (0.5 - distance * radius).clamp(0, 1)).round().to(torch.uint8)
