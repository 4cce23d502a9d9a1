"""Encoder and decoder networks, which map tensors to tensors."""

from vae_lightning.networks.conditional import (
    UNCONDITIONAL,
    Condition,
    ConditionalDecoder,
    ConditionalEncoder,
)
from vae_lightning.networks.conv import ConvDecoder, ConvEncoder, ResidualBlock
from vae_lightning.networks.dense import MLPDecoder, MLPEncoder, dense

__all__ = [
    "UNCONDITIONAL",
    "Condition",
    "ConditionalDecoder",
    "ConditionalEncoder",
    "ConvDecoder",
    "ConvEncoder",
    "MLPDecoder",
    "MLPEncoder",
    "ResidualBlock",
    "dense",
]
