"""1. The bound: log p(x) = ELBO + KL(q(z|x) || p(z|x)) for every q.

Kingma & Welling 2014, https://arxiv.org/abs/1312.6114.
"""

from typing import NamedTuple

import torch
from torch.distributions import kl_divergence

from vae_lightning.distributions import DiagonalNormal, FullNormal, Posterior
from vae_lightning.objectives import elbo
from vae_lightning.verification.identities.linear import (
    LinearGaussian,
    as_multivariate,
    sigma_points,
)
from vae_lightning.verification.identities.row import Row, equality, inequality, normal
from vae_lightning.verification.quadrature import Grid

IMAGES, LATENTS = 20, 2


class Posteriors(NamedTuple):
    """A posterior of each kind."""

    diagonal: DiagonalNormal
    full: FullNormal


def some_posteriors() -> Posteriors:
    """Returns normals far from the posteriors of the images, with diagonal and full covariance."""
    mean, std = normal("q mean", IMAGES, LATENTS), 0.3 + normal("q std", IMAGES, LATENTS).abs() / 2
    scale_tril = torch.diag_embed(std) + normal("q lower", IMAGES, LATENTS, LATENTS).tril(-1)
    return Posteriors(DiagonalNormal(mean, std), FullNormal(mean, scale_tril))


def bound() -> list[Row]:
    """Checks log p(x), the ELBO and the KL gap in the linear-Gaussian model."""
    model = LinearGaussian(LATENTS, IMAGES)
    noise = sigma_points(IMAGES, LATENTS)

    def lower_bound(q: Posterior) -> torch.Tensor:
        return -elbo(model.terms(q, noise)).detach() - model.log_normalizer

    rows = []
    for name, q in zip(Posteriors._fields, some_posteriors(), strict=True):
        scale_tril = q.scale_tril if isinstance(q, FullNormal) else torch.diag_embed(q.std)
        gap = kl_divergence(as_multivariate(q.mean, scale_tril), model.posterior)
        rows.append(
            equality(
                f"log p(x) = ELBO + KL(q || p(z|x)), any normal q, {name} covariance",
                model.log_p,
                lower_bound(q) + gap,
            )
        )
        tightest = int((model.log_p - lower_bound(q)).argmin())
        rows.append(
            inequality(
                f"ELBO <= log p(x), tightest of {IMAGES} images, {name} covariance",
                lower_bound(q)[tightest],
                model.log_p[tightest],
            )
        )
    rows.append(
        equality(
            "ELBO = log p(x) if q is the posterior",
            lower_bound(model.exact_posterior()),
            model.log_p,
        )
    )
    return [*rows, by_quadrature(model)]


def by_quadrature(model: LinearGaussian) -> Row:
    """Checks log p(x) against the integral of p(x|z) p(z) over z on a grid."""
    grid = Grid.cube(10, LATENTS, 201)
    z = grid.points.unsqueeze(1).expand(-1, IMAGES, -1)
    with torch.no_grad():
        log_joint = (
            model.prior.log_prob(z) - model.likelihood(z).recon(model.x) - model.log_normalizer
        )
    return equality(
        "log of the integral of p(x|z) p(z) on a grid = log p(x)",
        grid.log_integral(log_joint),
        model.log_p,
    )
