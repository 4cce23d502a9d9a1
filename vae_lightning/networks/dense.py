"""Dense networks: encoders map images to vectors, decoders map latent vectors to images.

The posterior or likelihood that holds a network interprets its outputs and determines their number.
The configuration therefore gives all arguments except ``outputs``, and the distribution gives
``outputs``.
Shapes: B images, L latent dimensions, C H W of an image, ``outputs`` numbers per image (encoder) or
per pixel (decoder).
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor, nn

from vae_lightning.checks.errors import ConfigError
from vae_lightning.checks.ranges import Choice, Integer, Integers, Option

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "silu": nn.SiLU}
GATED = "gated"  # not an activation of single values: a layer has twice as many outputs

LatentDim = Annotated[int, Option("number of latent dimensions", Integer(1))]
HiddenDims = Annotated[
    Sequence[int],
    Option("widths of the encoder's hidden layers, reversed in the decoder", Integers(1)),
]
Activation = Annotated[str, Option("activation between layers", Choice(tuple(ACTIVATIONS)))]
DenseActivation = Annotated[
    str,
    Option(
        "activation between layers; gated: (A h + b) * sigmoid(C h + d)",
        Choice((*ACTIVATIONS, GATED)),
    ),
]


def activate(name: str) -> nn.Module:
    """Returns a new activation layer; raises ConfigError if the name is not in ACTIVATIONS."""
    if name not in ACTIVATIONS:
        raise ConfigError(f"model.activation={name}: must be one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def dense(widths: Sequence[int], activation: str) -> nn.Sequential:
    """Returns linear layers of the given widths with activations between them.

    With the activation ``gated``, a hidden layer is (A h + b) * sigmoid(C h + d). Dauphin et al.
    2017, https://arxiv.org/abs/1612.08083; in VAEs Tomczak & Welling 2018,
    https://arxiv.org/abs/1705.07120.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths[:-1]):
        if activation == GATED:
            layers += [nn.Linear(inputs, 2 * outputs), nn.GLU()]
        else:
            layers += [nn.Linear(inputs, outputs), activate(activation)]
    inputs, outputs = widths[-2:]
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


def without_gradient(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Returns the function of a network with constant parameters; gradients reach its input."""
    held = {name: value.detach() for name, value in network.named_parameters()}
    return lambda inputs: torch.func.functional_call(network, held, (inputs,))


class MLPEncoder(nn.Sequential):
    """Maps x (B, C, H, W) to (B, outputs) with dense layers; affine if ``hidden_dims`` is empty."""

    def __init__(
        self,
        outputs: int,
        image_shape: Sequence[int],
        hidden_dims: HiddenDims = (),
        activation: DenseActivation = "relu",
    ) -> None:
        super().__init__(
            nn.Flatten(), dense([math.prod(image_shape), *hidden_dims, outputs], activation)
        )


class MLPDecoder(nn.Sequential):
    """Maps z (B, L) to (B, outputs * C, H, W) with dense layers; affine without ``hidden_dims``."""

    def __init__(
        self,
        outputs: int,
        latent_dim: LatentDim,
        image_shape: Sequence[int],
        hidden_dims: HiddenDims = (),
        activation: DenseActivation = "relu",
    ) -> None:
        channels, height, width = image_shape
        super().__init__(
            dense(
                [latent_dim, *reversed(hidden_dims), outputs * math.prod(image_shape)], activation
            ),
            nn.Unflatten(-1, (outputs * channels, height, width)),
        )
