"""Every density integrates to one, and both directions of a flow give the same density.

Shapes: P points of a grid or of a quadrature rule.
"""

from functools import partial

import torch
from torch import Tensor

from vae_lightning.distributions import (
    Bernoulli,
    Distribution,
    Gaussian,
    Laplace,
    Mixture,
    SquaredError,
    StandardNormal,
)
from vae_lightning.distributions.flows import FlowPosterior, FlowPrior
from vae_lightning.networks import MLPEncoder
from vae_lightning.verification.identities.bound import LATENTS, some_posteriors
from vae_lightning.verification.identities.pixels import column, parameter
from vae_lightning.verification.identities.row import Row, equality, normal
from vae_lightning.verification.quadrature import Grid, gauss_legendre


def total(distribution: Distribution, grid: Grid) -> Tensor:
    """Returns the integral of the density of a distribution of latent vectors."""
    return grid.integral(distribution.log_prob(grid.points.unsqueeze(1)).exp())


def latent_densities() -> list[Row]:
    """Checks that the densities of normal posteriors and of priors integrate to one."""
    grid = Grid.cube(16, LATENTS, 601)
    diagonal, full = some_posteriors()
    diagonal, full = diagonal.take(torch.arange(3)), full.take(torch.arange(3))
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
    each: dict[str, Distribution] = {
        "N(0, I)": StandardNormal(LATENTS),
        "diagonal normal": diagonal,
        "full normal": full,
        "mixture of diagonal normals": Mixture(weights, diagonal),
        "mixture of full normals": Mixture(weights, full),
    }
    return [
        equality(f"{name}: the density integrates to 1", total(q, grid), 1.0)
        for name, q in each.items()
    ]


def flows() -> list[Row]:
    """Checks the flow posterior and the flow prior, with random weights."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = partial(MLPEncoder, image_shape=(1, 1, 3))
        posterior = FlowPosterior(
            network, LATENTS, transforms=2, hidden_dims=[16], context=4
        ).double()
        prior = FlowPrior(LATENTS, transforms=2, hidden_dims=[16]).double()
        q, p = posterior(normal("flow x", 1, 1, 1, 3)), prior(posterior)
        z = q.transform(normal("flow noise", 1000, 1, LATENTS))
        # log_prob inverts the flow for a copy of z, but not for the z that was drawn last
        drawn, inverted = q.log_prob(z), q.log_prob(z.clone())
        grid = Grid.cube(12, LATENTS, 501)
        return [
            equality(
                "flow posterior: log q(z) while drawing z = log q(z) by inverting the flow",
                drawn,
                inverted,
            ),
            # the trapezoid rule converges slowly, because the networks of the flow use ReLU and
            # the density is not smooth
            equality("flow posterior: the density integrates to 1", total(q, grid), 1.0, 1e-4),
            equality("flow prior: the density integrates to 1", total(p, grid), 1.0, 1e-4),
        ]


def pixel_densities() -> list[Row]:
    """Checks that likelihoods of real pixels integrate to one and that Bernoulli sums to one.

    The density of real pixels is exp(-recon - log_normalizer).
    """
    location = 0.4
    # the interval is split at the kink of the Laplace density
    parts = [gauss_legendre(location - 30, location), gauss_legendre(location, location + 30)]
    x, weights = (torch.cat(part) for part in zip(*parts, strict=True))
    mean = parameter(torch.tensor([location], dtype=torch.float64))
    scale = parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    each = {
        "squared error + (1/2) log pi per pixel": SquaredError(mean),
        "gaussian": Gaussian(mean, scale),
        "laplace": Laplace(mean, scale / 2),
    }
    rows = [
        equality(
            f"{name}: the density integrates to 1",
            (-density.recon(column(x)) - density.log_normalizer).exp() @ weights,
            1.0,
        )
        for name, density in each.items()
    ]
    coin = Bernoulli(
        parameter(torch.tensor([-7.0, 0.0, 2.0], dtype=torch.float64)).expand(-1, 2, -1, -1, -1)
    )
    both = coin.recon(column(torch.tensor([0.0, 1.0], dtype=torch.float64))).neg().exp().sum(-1)
    return [*rows, equality("bernoulli: the two probabilities sum to 1", both, 1.0)]
