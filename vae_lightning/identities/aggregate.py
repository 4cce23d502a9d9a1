"""5. and 8. The aggregate posterior q(z) = 1/N sum_n q(z|x_n): ELBO surgery, total correlation, MMD, VampPrior.

Hoffman & Johnson 2016, http://approximateinference.org/accepted/HoffmanJohnson2016.pdf; Chen et al. 2018,
https://arxiv.org/abs/1802.04942. Shapes: N images, L latent dimensions, P points of a grid.
"""

import math
from functools import partial

import torch
from torch import Tensor

from vae_lightning.distributions import (
    DiagonalNormal,
    DiagonalNormalPosterior,
    Mixture,
    StandardNormal,
    VampPrior,
)
from vae_lightning.identities.row import Row, at_most, normal, sampled, worst
from vae_lightning.networks import MLPEncoder
from vae_lightning.objectives import Terms, mmd, total_correlation
from vae_lightning.quadrature import Grid

IMAGES, LATENTS, SAMPLES = 5, 2, 20_000
QUADRATURE = 1e-8


def posteriors() -> DiagonalNormal:
    """N posteriors that overlap in part."""
    return DiagonalNormal(1.5 * normal("means", IMAGES, LATENTS), 0.3 + normal("stds", IMAGES, LATENTS).abs() / 3)


def aggregate(q: DiagonalNormal) -> Mixture:
    """The mixture with equal weights."""
    return Mixture(torch.full((len(q.mean),), -math.log(len(q.mean)), dtype=torch.float64), q)


def information(q: DiagonalNormal, grid: Grid) -> Tensor:
    """I(n; z) = 1/N sum_n KL(q(z|x_n) || q(z)) by quadrature, a number."""
    z = grid.points.unsqueeze(1)
    log_q = q.log_prob(z)  # (P, N)
    return grid.integral(log_q.exp() * (log_q - aggregate(q).log_prob(z))).mean()


def divergence(q: Mixture, grid: Grid) -> Tensor:
    """KL(q(z) || N(0, I)) by quadrature, a number."""
    z = grid.points.unsqueeze(1)
    log_q = q.log_prob(z)[:, 0]
    return grid.integral(log_q.exp() * (log_q - StandardNormal(len(grid.axes)).log_prob(z)[:, 0]))


def surgery() -> list[Row]:
    """The mean KL term in its parts."""
    q = posteriors()
    plane, line = Grid.cube(12, LATENTS, 601), Grid.cube(12, 1, 1001)
    mean_kl = Terms(torch.zeros(1, IMAGES), q.mean[None], q, StandardNormal(LATENTS)).kl.mean()
    mutual, marginal_kl = information(q, plane), divergence(aggregate(q), plane)
    single = [aggregate(DiagonalNormal(q.mean[:, [i]], q.std[:, [i]])) for i in range(LATENTS)]
    dimensions = sum(divergence(marginal, line) for marginal in single)
    joint = aggregate(q).log_prob(plane.points.unsqueeze(1))[:, 0]
    factors = sum(marginal.log_prob(plane.points[:, None, [i]])[:, 0] for i, marginal in enumerate(single))
    correlation = plane.integral(joint.exp() * (joint - factors))
    z = q.rsample(normal("tc samples", SAMPLES, IMAGES, LATENTS))
    estimates = torch.stack([total_correlation(q, part, IMAGES).mean() for part in z.split(50)])
    return [
        worst("mean KL = I(n; z) + KL(q(z) || p(z))", mean_kl, mutual + marginal_kl, QUADRATURE),
        at_most("I(n; z) <= log N", mutual, math.log(IMAGES)),
        worst("mean KL = I(n; z) + TC + sum of the KL of each dimension", mean_kl, mutual + correlation + dimensions,
              QUADRATURE),
        sampled("total_correlation of the whole data set, sampled = TC by quadrature", estimates, correlation),
        *discrepancy(q),
    ]  # fmt: skip


def discrepancy(q: DiagonalNormal) -> list[Row]:
    """The unbiased MMD^2 against its closed form for normals.

    E exp(-d^2/(2L)) = sqrt(L/(L + v)) exp(-m^2/(2(L + v))) in each dimension, for d ~ N(m, v).
    """

    def kernel(mean: Tensor, variance: Tensor) -> Tensor:
        total = LATENTS + variance
        return ((LATENTS / total).sqrt() * (-mean.square() / (2 * total)).exp()).prod()

    mean, std, one = q.mean[0], q.std[0], torch.ones(LATENTS)
    exact = kernel(0 * mean, 2 * std**2) + kernel(0 * mean, 2 * one) - 2 * kernel(mean, std**2 + one)
    first, second, third = (normal(f"mmd {name}", 1000, 20, LATENTS) for name in "abc")
    different = torch.stack([mmd(mean + std * a, b) for a, b in zip(first, second, strict=True)])
    same = torch.stack([mmd(a, b) for a, b in zip(third, second, strict=True)])
    return [
        sampled("E[mmd of two normals] = its closed form", different, exact),
        sampled("E[mmd of a distribution with itself] = 0", same, 0.0),
    ]


def vamp_prior() -> list[Row]:
    """With pseudo-inputs = data the mean KL term is I(n; z): Tomczak & Welling 2018, arxiv.org/abs/1705.07120."""
    shape = (1, 2, 2)
    images = (30 + 25 * torch.arange(IMAGES * 4) % 200).to(torch.uint8).view(IMAGES, *shape)
    encoder = DiagonalNormalPosterior(partial(MLPEncoder, image_shape=shape), 1).double()
    prior = VampPrior(IMAGES, shape).double()
    prior.start_from(images, binarized=False)
    with torch.no_grad():
        for number, weights in enumerate(encoder.parameters()):
            weights.copy_(2 * normal(f"vamp {number}", *weights.shape))
        q, mixture = encoder(images.double() / 255), prior(encoder)
        grid = Grid.cube(30, 1, 4001)
        z = grid.points.unsqueeze(1)
        log_q = q.log_prob(z)
        kl = grid.integral(log_q.exp() * (log_q - mixture.log_prob(z))).mean()
        samples = q.rsample(normal("vamp samples", SAMPLES, IMAGES, 1))
        terms = Terms(torch.zeros(SAMPLES, IMAGES), samples, q, mixture)
        estimates = (terms.log_q - terms.log_p).mean(1)
        mutual = information(q, grid)
    return [
        worst("VampPrior, pseudo-inputs = data: mean KL = I(n; z)", kl, mutual, QUADRATURE),
        sampled("the same by the samples of Terms", estimates, mutual),
        at_most("mean KL <= log N", kl, math.log(IMAGES)),
    ]
