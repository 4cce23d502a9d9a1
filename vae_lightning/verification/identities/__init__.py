"""Numerical checks of the identities that the package relies on.

Each function returns rows of the table that ``vae_lightning.verify`` prints. One side of a row is
computed by the functions that training uses. The other side is a closed form, an integral, or a
result of torch.distributions. These modules import torch but not Lightning.
"""

from collections.abc import Callable

from vae_lightning.verification.identities.aggregate import surgery, vamp_prior
from vae_lightning.verification.identities.bound import bound
from vae_lightning.verification.identities.densities import flows, latent_densities, pixel_densities
from vae_lightning.verification.identities.gradients import estimators
from vae_lightning.verification.identities.kl import divergences
from vae_lightning.verification.identities.pixels import (
    bits,
    continuous_bernoulli,
    discretized_logistic,
)
from vae_lightning.verification.identities.row import Row
from vae_lightning.verification.identities.weighting import importance_weighting

IDENTITIES: dict[str, Callable[[], list[Row]]] = {
    "the bound": bound,
    "KL divergences": divergences,
    "importance weighting": importance_weighting,
    "gradients": estimators,
    "the aggregate posterior": surgery,
    "continuous Bernoulli": continuous_bernoulli,
    "discretized logistic": discretized_logistic,
    "bits per dimension": bits,
    "VampPrior": vamp_prior,
    "densities over z": latent_densities,
    "flows": flows,
    "densities over x": pixel_densities,
}

__all__ = ["IDENTITIES", "Row"]
