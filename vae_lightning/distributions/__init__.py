"""Posteriors, likelihoods and priors: modules whose forward returns a distribution.

The package imports only PyTorch. ``flows``, which requires zuko, must be imported explicitly.
"""

from vae_lightning.distributions.hierarchical import (
    HierarchicalPosterior,
    HierarchicalPrior,
    LayeredNormal,
    layer_kl_divergences,
)
from vae_lightning.distributions.kl import Distribution, Posterior, Prior, kl_divergence
from vae_lightning.distributions.likelihood import (
    BernoulliLikelihood,
    ContinuousBernoulliLikelihood,
    DiscretizedLogisticLikelihood,
    GaussianLikelihood,
    LaplaceLikelihood,
    SquaredErrorLikelihood,
)
from vae_lightning.distributions.normal import (
    DiagonalNormal,
    FullNormal,
    StandardNormal,
    kl_diagonal_normals,
    kl_full_to_standard_normal,
    kl_to_standard_normal,
)
from vae_lightning.distributions.pixels import (
    Bernoulli,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    Laplace,
    SquaredError,
    bits_per_dim,
    log_continuous_bernoulli_normalizer,
)
from vae_lightning.distributions.posterior import (
    STD_FLOOR,
    DiagonalNormalPosterior,
    FullNormalPosterior,
)
from vae_lightning.distributions.prior import Mixture, MixturePrior, StandardNormalPrior, VampPrior

__all__ = [
    "STD_FLOOR",
    "Bernoulli",
    "BernoulliLikelihood",
    "ContinuousBernoulli",
    "ContinuousBernoulliLikelihood",
    "DiagonalNormal",
    "DiagonalNormalPosterior",
    "DiscretizedLogistic",
    "DiscretizedLogisticLikelihood",
    "Distribution",
    "FullNormal",
    "FullNormalPosterior",
    "Gaussian",
    "GaussianLikelihood",
    "HierarchicalPosterior",
    "HierarchicalPrior",
    "Laplace",
    "LaplaceLikelihood",
    "LayeredNormal",
    "Mixture",
    "MixturePrior",
    "Posterior",
    "Prior",
    "SquaredError",
    "SquaredErrorLikelihood",
    "StandardNormal",
    "StandardNormalPrior",
    "VampPrior",
    "bits_per_dim",
    "kl_diagonal_normals",
    "kl_divergence",
    "kl_full_to_standard_normal",
    "kl_to_standard_normal",
    "layer_kl_divergences",
    "log_continuous_bernoulli_normalizer",
]
