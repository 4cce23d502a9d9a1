"""Convolutional networks. Shapes: see dense.py."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

from jaxtyping import Float
from torch import Tensor, nn

from vae_lightning.checks.errors import ConfigError
from vae_lightning.checks.ranges import Integer, Integers, Option
from vae_lightning.networks.dense import Activation, HiddenDims, LatentDim, activate, dense

Widths = Annotated[
    Sequence[int],
    Option("channels of the convolutions, each of which halves the image", Integers(1)),
]
Blocks = Annotated[int, Option("residual blocks after each convolution", Integer(0))]


def downsampled_size(image_shape: Sequence[int], widths: Sequence[int]) -> tuple[int, int]:
    """Returns height and width after one stride-2 convolution for each of ``widths``.

    Raises ConfigError if the input of a convolution has an odd height or width.
    """
    _, height, width = image_shape
    factor = 2 ** len(widths)
    if not widths or height % factor or width % factor:
        raise ConfigError(
            f"model.widths={list(widths)}: must be 1 or 2 integers,"
            " because each convolution halves the 28x28 image"
        )
    return height // factor, width // factor


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
        height, width = downsampled_size(image_shape, widths)
        channels = [image_shape[0], *widths]
        self.features = nn.Sequential()
        for inputs, out in pairwise(channels):
            residual = [ResidualBlock(out, activation) for _ in range(blocks)]
            self.features.extend(
                [nn.Conv2d(inputs, out, 4, stride=2, padding=1), *residual, activate(activation)]
            )
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
        height, width = downsampled_size(image_shape, widths)
        channels = [outputs * image_shape[0], *widths][::-1]
        self.stem = dense(
            [latent_dim, *reversed(hidden_dims), channels[0] * height * width], activation
        )
        self.images = nn.Sequential(nn.Unflatten(-1, (channels[0], height, width)))
        for inputs, out in pairwise(channels):
            residual = [ResidualBlock(inputs, activation) for _ in range(blocks)]
            self.images.extend(
                [
                    *residual,
                    activate(activation),
                    nn.ConvTranspose2d(inputs, out, 4, stride=2, padding=1),
                ]
            )

    def forward(self, z: Float[Tensor, "N L"]) -> Float[Tensor, "N C H W"]:
        """Maps z (B, L) to (B, outputs * C, H, W)."""
        return self.images(self.stem(z))
