"""Posteriors, likelihoods and priors: modules whose forward returns a distribution. They import torch only."""

from vae_lightning.distributions.kl import Distribution, Posterior, kl_divergence
from vae_lightning.distributions.likelihood import Bernoulli, BernoulliLikelihood, SquaredError, SquaredErrorLikelihood
from vae_lightning.distributions.normal import (
    DiagonalNormal,
    StandardNormal,
    kl_diagonal_normals,
    kl_to_standard_normal,
)
from vae_lightning.distributions.posterior import STD_FLOOR, DiagonalNormalPosterior
from vae_lightning.distributions.prior import StandardNormalPrior

__all__ = [
    "STD_FLOOR",
    "Bernoulli",
    "BernoulliLikelihood",
    "DiagonalNormal",
    "DiagonalNormalPosterior",
    "Distribution",
    "Posterior",
    "SquaredError",
    "SquaredErrorLikelihood",
    "StandardNormal",
    "StandardNormalPrior",
    "kl_diagonal_normals",
    "kl_divergence",
    "kl_to_standard_normal",
]
