"""Convolutional networks for images of any size. Shapes: see dense.py.

The encoder halves height and width with each convolution, and rounds up. The decoder goes back
through the same sizes. Where a size is odd, the convolution has one more line of zeros on each
side, and ``output_padding`` restores the odd size in the decoder.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

from jaxtyping import Float
from torch import Tensor, nn

from vae_lightning.checks.errors import ConfigError
from vae_lightning.checks.ranges import AnyOf, Choice, Integer, Integers, Option
from vae_lightning.networks.dense import Activation, HiddenDims, LatentDim, activate, dense

Widths = Annotated[
    Sequence[int] | None,
    Option(
        "channels of the convolutions, each of which halves height and width, rounded up; null: 32,"
        " 64, 128, then 256, until both are at most 8",
        AnyOf((Integers(1), Choice((None,)))),
    ),
]
Blocks = Annotated[int, Option("residual blocks after each convolution", Integer(0))]

SMALL_SIZE = 8  # height and width after the convolutions, at most, if the widths are chosen here
FIRST_WIDTH, LARGEST_WIDTH = 32, 256


def chosen_widths(image_shape: Sequence[int], widths: Sequence[int] | None) -> list[int]:
    """Returns the widths, or those that fit the size of the image if ``widths`` is None.

    Raises ConfigError if a convolution would have an image of a single pixel as its input.
    """
    height, width = image_shape[-2:]
    larger = max(height, width)
    if widths is None:
        count = max(1, math.ceil(math.log2(larger / SMALL_SIZE)))
        return [min(FIRST_WIDTH * 2**number, LARGEST_WIDTH) for number in range(count)]
    most = max(1, math.ceil(math.log2(larger)))
    if not 1 <= len(widths) <= most:
        allowed = f"1 to {most} integers" if most > 1 else "1 integer"
        raise ConfigError(
            f"model.widths={list(widths)}: must be {allowed} or null,"
            f" because each convolution halves the {height}x{width} image"
        )
    return list(widths)


def sizes(image_shape: Sequence[int], convolutions: int) -> list[tuple[int, int]]:
    """Returns height and width before each convolution and after the last one.

    Each convolution halves both and rounds up: 7x5, 4x3, 2x2, 1x1.
    """
    _, height, width = image_shape
    return [(-(-height // 2**done), -(-width // 2**done)) for done in range(convolutions + 1)]


def is_odd(size: tuple[int, int]) -> tuple[int, int]:
    """Returns 1 for an odd height or width, else 0: the ``output_padding`` that restores it."""
    return size[0] % 2, size[1] % 2


def padding(size: tuple[int, int]) -> tuple[int, int]:
    """Returns the padding, on each side, of a convolution between this size and its half."""
    return 1 + size[0] % 2, 1 + size[1] % 2


class ResidualBlock(nn.Module):
    """A residual block with pre-activation: x + convolutions(x).

    He et al. 2016, https://arxiv.org/abs/1603.05027.
    """

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)]
        self.change = nn.Sequential(
            activate(activation), convolutions[0], activate(activation), convolutions[1]
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Maps x (B, C, H, W) to (B, C, H, W)."""
        return x + self.change(x)


class ConvEncoder(nn.Module):
    """Encoder with stride-2 convolutions of the given widths, followed by dense layers.

    ``blocks`` residual blocks follow each convolution.
    """

    def __init__(
        self,
        outputs: int,
        image_shape: Sequence[int],
        widths: Widths,
        hidden_dims: HiddenDims,
        activation: Activation = "relu",
        blocks: Blocks = 0,
    ) -> None:
        super().__init__()
        channels = [image_shape[0], *chosen_widths(image_shape, widths)]
        *larger, (height, width) = sizes(image_shape, len(channels) - 1)
        self.features = nn.Sequential()
        for (inputs, out), size in zip(pairwise(channels), larger, strict=True):
            convolution = nn.Conv2d(inputs, out, 4, stride=2, padding=padding(size))
            residual = [ResidualBlock(out, activation) for _ in range(blocks)]
            self.features.extend([convolution, *residual, activate(activation)])
        self.head = dense([channels[-1] * height * width, *hidden_dims, outputs], activation)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B outputs"]:
        """Maps x (B, C, H, W) to (B, outputs)."""
        return self.head(self.features(x).flatten(1))


class ConvDecoder(nn.Module):
    """Decoder with dense layers and stride-2 transposed convolutions: ConvEncoder reversed."""

    def __init__(
        self,
        outputs: int,
        latent_dim: LatentDim,
        image_shape: Sequence[int],
        widths: Widths,
        hidden_dims: HiddenDims,
        activation: Activation = "relu",
        blocks: Blocks = 0,
    ) -> None:
        super().__init__()
        channels = [outputs * image_shape[0], *chosen_widths(image_shape, widths)][::-1]
        (height, width), *larger = sizes(image_shape, len(channels) - 1)[::-1]
        self.stem = dense(
            [latent_dim, *reversed(hidden_dims), channels[0] * height * width], activation
        )
        self.images = nn.Sequential(nn.Unflatten(-1, (channels[0], height, width)))
        for (inputs, out), size in zip(pairwise(channels), larger, strict=True):
            residual = [ResidualBlock(inputs, activation) for _ in range(blocks)]
            convolution = nn.ConvTranspose2d(
                inputs, out, 4, stride=2, padding=padding(size), output_padding=is_odd(size)
            )
            self.images.extend([*residual, activate(activation), convolution])

    def forward(self, z: Float[Tensor, "N L"]) -> Float[Tensor, "N C H W"]:
        """Maps z (B, L) to (B, outputs * C, H, W)."""
        return self.images(self.stem(z))
