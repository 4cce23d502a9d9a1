"""5. and 8. The aggregate posterior q(z) = 1/N sum_n q(z|x_n).

The topics are ELBO surgery, total correlation, MMD and VampPrior. Hoffman & Johnson 2016,
http://approximateinference.org/2016/accepted/HoffmanJohnson2016.pdf; Chen et al. 2018,
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
from vae_lightning.networks import MLPEncoder
from vae_lightning.objectives import Terms, mmd, total_correlation
from vae_lightning.verification.identities.row import Row, equality, inequality, monte_carlo, normal
from vae_lightning.verification.quadrature import Grid

IMAGES, LATENTS, SAMPLES = 5, 2, 20_000
QUADRATURE_TOLERANCE = 1e-8


def posteriors() -> DiagonalNormal:
    """Returns N posteriors that overlap partially."""
    return DiagonalNormal(
        1.5 * normal("means", IMAGES, LATENTS), 0.3 + normal("stds", IMAGES, LATENTS).abs() / 3
    )


def aggregate(q: DiagonalNormal) -> Mixture:
    """Returns the aggregate posterior, the mixture of the N posteriors with equal weights."""
    return Mixture(torch.full((len(q.mean),), -math.log(len(q.mean)), dtype=torch.float64), q)


def information(q: DiagonalNormal, grid: Grid) -> Tensor:
    """Returns I(n; z) = 1/N sum_n KL(q(z|x_n) || q(z)) by quadrature: ()."""
    z = grid.points.unsqueeze(1)
    log_q = q.log_prob(z)  # (P, N)
    return grid.integral(log_q.exp() * (log_q - aggregate(q).log_prob(z))).mean()


def divergence(q: Mixture, grid: Grid) -> Tensor:
    """Returns KL(q(z) || N(0, I)) by quadrature: ()."""
    z = grid.points.unsqueeze(1)
    log_q = q.log_prob(z)[:, 0]
    return grid.integral(log_q.exp() * (log_q - StandardNormal(len(grid.axes)).log_prob(z)[:, 0]))


def surgery() -> list[Row]:
    """Checks the decompositions of the mean KL term and the sampled total correlation."""
    q = posteriors()
    plane, line = Grid.cube(12, LATENTS, 601), Grid.cube(12, 1, 1001)
    mean_kl = Terms(torch.zeros(1, IMAGES), q.mean[None], q, StandardNormal(LATENTS)).kl.mean()
    mutual, marginal_kl = information(q, plane), divergence(aggregate(q), plane)
    single = [aggregate(DiagonalNormal(q.mean[:, [i]], q.std[:, [i]])) for i in range(LATENTS)]
    dimensions = sum(divergence(marginal, line) for marginal in single)
    joint = aggregate(q).log_prob(plane.points.unsqueeze(1))[:, 0]
    factors = sum(
        marginal.log_prob(plane.points[:, None, [i]])[:, 0] for i, marginal in enumerate(single)
    )
    correlation = plane.integral(joint.exp() * (joint - factors))
    z = q.transform(normal("tc samples", SAMPLES, IMAGES, LATENTS))
    estimates = torch.stack([total_correlation(q, part, IMAGES).mean() for part in z.split(50)])
    return [
        equality(
            "mean KL = I(n; z) + KL(q(z) || p(z))",
            mean_kl,
            mutual + marginal_kl,
            QUADRATURE_TOLERANCE,
        ),
        inequality("I(n; z) <= log N", mutual, math.log(IMAGES)),
        equality(
            "mean KL = I(n; z) + TC + sum over dimensions of KL(q(z_l) || p(z_l))",
            mean_kl,
            mutual + correlation + dimensions,
            QUADRATURE_TOLERANCE,
        ),
        monte_carlo(
            "mean of total_correlation on the whole data set = TC by quadrature",
            estimates,
            correlation,
        ),
        *discrepancy(q),
    ]


def discrepancy(q: DiagonalNormal) -> list[Row]:
    """Checks the unbiased estimate of MMD^2 against its closed form for normals.

    For d ~ N(m, v), E exp(-d^2/(2L)) = sqrt(L/(L + v)) exp(-m^2/(2(L + v))) in each dimension.
    """

    def kernel(mean: Tensor, variance: Tensor) -> Tensor:
        total = LATENTS + variance
        return ((LATENTS / total).sqrt() * (-mean.square() / (2 * total)).exp()).prod()

    mean, std, one = q.mean[0], q.std[0], torch.ones(LATENTS)
    exact = (
        kernel(0 * mean, 2 * std**2) + kernel(0 * mean, 2 * one) - 2 * kernel(mean, std**2 + one)
    )
    first, second, third = (normal(f"mmd {name}", 1000, 20, LATENTS) for name in "abc")
    normals = (mean + std * first).unsqueeze(1)  # one sample of each distribution
    different = torch.stack([mmd(a, b) for a, b in zip(normals, second, strict=True)])
    same = torch.stack([mmd(a, b) for a, b in zip(third.unsqueeze(1), second, strict=True)])
    return [
        monte_carlo("E[mmd of two normals] = closed form of MMD^2", different, exact),
        monte_carlo("E[mmd of a distribution with itself] = 0", same, 0.0),
    ]


def vamp_prior() -> list[Row]:
    """Checks that the mean KL term is I(n; z) if the pseudo-inputs of VampPrior are the data.

    Tomczak & Welling 2018, https://arxiv.org/abs/1705.07120.
    """
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
        samples = q.transform(normal("vamp samples", SAMPLES, IMAGES, 1))
        terms = Terms(torch.zeros(SAMPLES, IMAGES), samples, q, mixture)
        estimates = (terms.log_q - terms.log_p).mean(1)
        mutual = information(q, grid)
    return [
        equality(
            "VampPrior with pseudo-inputs = data: mean KL = I(n; z)",
            kl,
            mutual,
            QUADRATURE_TOLERANCE,
        ),
        monte_carlo(
            "VampPrior with pseudo-inputs = data: mean of log q - log p = I(n; z)",
            estimates,
            mutual,
        ),
        inequality("VampPrior with pseudo-inputs = data: mean KL <= log N", kl, math.log(IMAGES)),
    ]
