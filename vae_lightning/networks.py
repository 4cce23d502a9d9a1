"""Networks: images to vectors and latent vectors to images, tensors in, tensors out.

A network does not know what its outputs mean: the posterior or the likelihood that holds it says how many it needs.
Shapes: B images, L latent dimensions, C H W of an image, P = ``outputs`` numbers per pixel (decoder) or per image
(encoder). Every class is built in two steps: YAML gives the architecture, the distribution gives ``outputs``.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "silu": nn.SiLU}


def activate(name: str) -> nn.Module:
    """A new activation layer; ValueError for a name that is not in ACTIVATIONS."""
    if name not in ACTIVATIONS:
        raise ValueError(f"model.activation={name}: must be one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def dense(widths: Sequence[int], activation: str) -> nn.Sequential:
    """Linear layers of the given widths with an activation between them, none after the last."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), activate(activation)]
    return nn.Sequential(*layers[:-1])


class MLPEncoder(nn.Sequential):
    """x (B, C, H, W) -> (B, outputs) through dense layers; with no ``hidden_dims`` it is one linear map."""

    def __init__(
        self, outputs: int, image_shape: Sequence[int], hidden_dims: Sequence[int] = (), activation: str = "relu"
    ) -> None:
        super().__init__(nn.Flatten(), dense([math.prod(image_shape), *hidden_dims, outputs], activation))


class MLPDecoder(nn.Sequential):
    """z (B, L) -> (B, outputs * C, H, W) through dense layers; with no ``hidden_dims`` it is one linear map."""

    def __init__(
        self,
        outputs: int,
        latent_dim: int,
        image_shape: Sequence[int],
        hidden_dims: Sequence[int] = (),
        activation: str = "relu",
    ) -> None:
        channels, height, width = image_shape
        super().__init__(
            dense([latent_dim, *reversed(hidden_dims), outputs * math.prod(image_shape)], activation),
            nn.Unflatten(-1, (outputs * channels, height, width)),
        )


def halvings(image_shape: Sequence[int], widths: Sequence[int]) -> tuple[int, int]:
    """Height and width after one stride-2 convolution for each of ``widths``; ValueError if a size is odd before."""
    _, height, width = image_shape
    factor = 2 ** len(widths)
    if not widths or height % factor or width % factor:
        raise ValueError(f"model.widths={list(widths)}: must be 1 to 2 integers (each halves the 28x28 image)")
    return height // factor, width // factor


class ResidualBlock(nn.Module):
    """x + convolutions(x), (B, C, H, W) -> the same shape. He et al. 2016, https://arxiv.org/abs/1603.05027."""

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)]
        self.change = nn.Sequential(activate(activation), convolutions[0], activate(activation), convolutions[1])

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> (B, C, H, W)."""
        return x + self.change(x)


class ConvEncoder(nn.Module):
    """x (B, C, H, W) -> (B, outputs): stride-2 convolutions of the given widths, then dense layers.

    ``blocks`` residual blocks follow each convolution.
    """

    def __init__(
        self,
        outputs: int,
        image_shape: Sequence[int],
        widths: Sequence[int],
        hidden_dims: Sequence[int],
        activation: str = "relu",
        blocks: int = 0,
    ) -> None:
        super().__init__()
        height, width = halvings(image_shape, widths)
        channels = [image_shape[0], *widths]
        self.features = nn.Sequential()
        for inputs, out in pairwise(channels):
            residual = [ResidualBlock(out, activation) for _ in range(blocks)]
            self.features.extend([nn.Conv2d(inputs, out, 4, stride=2, padding=1), *residual, activate(activation)])
        self.head = dense([channels[-1] * height * width, *hidden_dims, outputs], activation)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> (B, outputs)."""
        return self.head(self.features(x).flatten(1))


class ConvDecoder(nn.Module):
    """z (B, L) -> (B, outputs * C, H, W): dense layers, then stride-2 transposed convolutions, ConvEncoder reversed."""

    def __init__(
        self,
        outputs: int,
        latent_dim: int,
        image_shape: Sequence[int],
        widths: Sequence[int],
        hidden_dims: Sequence[int],
        activation: str = "relu",
        blocks: int = 0,
    ) -> None:
        super().__init__()
        height, width = halvings(image_shape, widths)
        channels = [outputs * image_shape[0], *widths][::-1]
        self.stem = dense([latent_dim, *reversed(hidden_dims), channels[0] * height * width], activation)
        self.images = nn.Sequential(nn.Unflatten(-1, (channels[0], height, width)))
        for inputs, out in pairwise(channels):
            residual = [ResidualBlock(inputs, activation) for _ in range(blocks)]
            self.images.extend(
                [*residual, activate(activation), nn.ConvTranspose2d(inputs, out, 4, stride=2, padding=1)]
            )

    def forward(self, z: Tensor) -> Tensor:
        """z (B, L) -> (B, outputs * C, H, W)."""
        return self.images(self.stem(z))


class ConditionalEncoder(nn.Module):
    """(x, label) -> outputs: any encoder of images with one channel more, a learned image of the label.

    Kingma et al. 2014, https://arxiv.org/abs/1406.5298; Sohn et al. 2015.

    Args:
        outputs: per image.
        network: called with ``outputs`` and ``image_shape``, returns the encoder.
        image_shape: C, H, W of x.
        classes: number of labels.
    """

    def __init__(
        self, outputs: int, network: Callable[..., nn.Module], image_shape: Sequence[int], classes: int
    ) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.network = network(outputs, image_shape=[channels + 1, height, width])
        self.label_images = nn.Embedding(classes, height * width)
        self.size = (1, height, width)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """x (B, C, H, W), label (B,) -> (B, outputs)."""
        return self.network(torch.cat([x, self.label_images(label).unflatten(-1, self.size)], dim=1))


class ConditionalDecoder(nn.Module):
    """(z, label) -> image: any decoder of latent vectors to which the label is appended, one-hot.

    Args:
        outputs: per pixel.
        network: called with ``outputs`` and ``latent_dim``, returns the decoder.
        latent_dim: L.
        classes: number of labels.
    """

    def __init__(self, outputs: int, network: Callable[..., nn.Module], latent_dim: int, classes: int) -> None:
        super().__init__()
        self.network = network(outputs, latent_dim=latent_dim + classes)
        self.classes = classes

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        """z (K * B, L), K samples after each other, label (B,) -> (K * B, outputs * C, H, W)."""
        one_hot = torch.eye(self.classes, dtype=z.dtype, device=z.device)[label].repeat(len(z) // len(label), 1)
        return self.network(torch.cat([z, one_hot], dim=-1))
