"""Objectives map the terms of the bound to the loss of each image, in nats."""

from vae_lightning.objectives.aggregate import MMD, TC, mmd, total_correlation
from vae_lightning.objectives.bounds import (
    ELBO,
    GECO,
    Capacity,
    FreeBits,
    capacity_bound,
    elbo,
    free_bits_bound,
)
from vae_lightning.objectives.disentangling import DIP, Factor
from vae_lightning.objectives.iwae import IWAE, iwae
from vae_lightning.objectives.terms import Objective, Terms

__all__ = [
    "DIP",
    "ELBO",
    "GECO",
    "IWAE",
    "MMD",
    "TC",
    "Capacity",
    "Factor",
    "FreeBits",
    "Objective",
    "Terms",
    "capacity_bound",
    "elbo",
    "free_bits_bound",
    "iwae",
    "mmd",
    "total_correlation",
]
