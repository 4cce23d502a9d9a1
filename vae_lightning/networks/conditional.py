"""Networks that condition on the label, and the record of the labels. Shapes: see dense.py."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class Condition(NamedTuple):
    """The additional input of encoder and decoder: the labels of the images, or nothing."""

    label: Int[Tensor, " B"] | None = None

    def apply(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Calls the network with the inputs, and with the labels if there are any."""
        return network(inputs) if self.label is None else network(inputs, self.label)

    def tensors(self) -> tuple[Tensor, ...]:
        """Returns the labels in a tuple, or an empty tuple; the arguments of ``Condition``."""
        return () if self.label is None else (self.label,)

    def take(self, index: Tensor | slice) -> "Condition":
        """Returns the condition of the images at these positions."""
        return Condition(None if self.label is None else self.label[index])

    def expand(self, count: int) -> "Condition":
        """Expands the condition of one image to ``count`` copies of the image."""
        return Condition(None if self.label is None else self.label.expand(count))


UNCONDITIONAL = Condition()


class ConditionalEncoder(nn.Module):
    """Conditions an encoder on the label: a learned image of the label is an additional channel.

    Kingma et al. 2014, https://arxiv.org/abs/1406.5298; Sohn et al. 2015.

    Args:
        outputs: number of outputs per image.
        network: called with ``outputs`` and ``image_shape``; returns the encoder.
        image_shape: C, H, W of x.
        classes: number of labels.
    """

    def __init__(
        self,
        outputs: int,
        network: Callable[..., nn.Module],
        image_shape: Sequence[int],
        classes: int,
    ) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.network = network(outputs, image_shape=[channels + 1, height, width])
        self.label_images = nn.Embedding(classes, height * width)
        self.size = (1, height, width)

    def forward(
        self, x: Float[Tensor, "B C H W"], label: Int[Tensor, " B"]
    ) -> Float[Tensor, "B outputs"]:
        """Maps x (B, C, H, W) and label (B,) to (B, outputs)."""
        return self.network(
            torch.cat([x, self.label_images(label).unflatten(-1, self.size)], dim=1)
        )


class ConditionalDecoder(nn.Module):
    """Conditions a decoder on the label: the one-hot label is concatenated with z.

    Args:
        outputs: number of outputs per pixel.
        network: called with ``outputs`` and ``latent_dim``; returns the decoder.
        latent_dim: L.
        classes: number of labels.
    """

    def __init__(
        self, outputs: int, network: Callable[..., nn.Module], latent_dim: int, classes: int
    ) -> None:
        super().__init__()
        self.network = network(outputs, latent_dim=latent_dim + classes)
        self.classes = classes

    def forward(self, z: Float[Tensor, "N L"], label: Int[Tensor, " B"]) -> Float[Tensor, "N ..."]:
        """Maps z (K * B, L) and label (B,) to (K * B, outputs * C, H, W).

        z holds the B vectors of the first sample, then those of the second, and so on.
        """
        one_hot = torch.eye(self.classes, dtype=z.dtype, device=z.device)[label].repeat(
            len(z) // len(label), 1
        )
        return self.network(torch.cat([z, one_hot], dim=-1))
