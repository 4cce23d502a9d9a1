"""The identities behind the package, computed: each function returns rows of the table of ``vae_lightning.verify``.

One side of a row is what the package's own functions return; the other is a closed form, torch.distributions, or an
integral. Imports torch, not Lightning.
"""

from collections.abc import Callable

from vae_lightning.identities.aggregate import surgery, vamp_prior
from vae_lightning.identities.bound import bound
from vae_lightning.identities.densities import flows, latent_densities, pixel_densities
from vae_lightning.identities.gradients import estimators
from vae_lightning.identities.kl import divergences
from vae_lightning.identities.pixels import bits, continuous_bernoulli, discretized_logistic
from vae_lightning.identities.row import Row
from vae_lightning.identities.weighting import importance_weighting

IDENTITIES: dict[str, Callable[[], list[Row]]] = {
    "the bound": bound,
    "KL divergences": divergences,
    "importance weighting": importance_weighting,
    "gradients": estimators,
    "the aggregate posterior": surgery,
    "continuous Bernoulli": continuous_bernoulli,
    "discretised logistic": discretized_logistic,
    "bits per dimension": bits,
    "VampPrior": vamp_prior,
    "densities over z": latent_densities,
    "flows": flows,
    "densities over x": pixel_densities,
}

__all__ = ["IDENTITIES", "Row"]
