"""Every density integrates to one, and a flow's two ways to its density agree."""

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
from vae_lightning.identities.bound import LATENTS, some_posteriors
from vae_lightning.identities.pixels import column, parameter
from vae_lightning.identities.row import Row, normal, worst
from vae_lightning.networks import MLPEncoder
from vae_lightning.quadrature import Grid, gauss_legendre


def total(distribution: Distribution, grid: Grid) -> Tensor:
    """The integral of a density of latent vectors."""
    return grid.integral(distribution.log_prob(grid.points.unsqueeze(1)).exp())


def latent_densities() -> list[Row]:
    """Posteriors and priors."""
    grid = Grid.cube(16, LATENTS, 601)
    diagonal, full = (q.take(torch.arange(3)) for q in some_posteriors().values())
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
    each: dict[str, Distribution] = {
        "N(0, I)": StandardNormal(LATENTS),
        "diagonal normal": diagonal,
        "full normal": full,
        "mixture of diagonal normals": Mixture(weights, diagonal),
        "mixture of full normals": Mixture(weights, full),
    }
    return [worst(f"{name}: the density integrates to 1", total(q, grid), 1.0) for name, q in each.items()]


def flows() -> list[Row]:
    """The flow posterior and prior, with random weights."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = partial(MLPEncoder, image_shape=(1, 1, 3))
        posterior = FlowPosterior(network, LATENTS, transforms=2, hidden_dims=[16], context=4).double()
        prior = FlowPrior(LATENTS, transforms=2, hidden_dims=[16]).double()
        q, p = posterior(normal("flow x", 1, 1, 1, 3)), prior(posterior)
        z = q.rsample(normal("flow noise", 1000, 1, LATENTS))
        drawn, inverted = q.log_prob(z), q.log_prob(z.clone())
        grid = Grid.cube(12, LATENTS, 501)
        return [
            worst("flow posterior: log q of what it drew = log q of the same z inverted", drawn, inverted),
            # the networks within are piecewise linear, so that the trapezoid rule converges slowly
            worst("flow posterior: the density integrates to 1", total(q, grid), 1.0, 1e-4),
            worst("flow prior: the density integrates to 1", total(p, grid), 1.0, 1e-4),
        ]


def pixel_densities() -> list[Row]:
    """Likelihoods of real-valued pixels, with what their recon leaves out; Bernoulli over its two values."""
    location = 0.4
    # two intervals: the Laplace density has its corner between them
    parts = [gauss_legendre(location - 30, location), gauss_legendre(location, location + 30)]
    x, weights = (torch.cat(part) for part in zip(*parts, strict=True))
    mean = parameter(torch.tensor([location], dtype=torch.float64))
    scale = parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    each = {
        "squared error + (1/2) log pi a pixel": SquaredError(mean),
        "gaussian": Gaussian(mean, scale),
        "laplace": Laplace(mean, scale / 2),
    }
    rows = [
        worst(f"{name}: the density integrates to 1",
              (-density.recon(column(x)) - density.log_normalizer).exp() @ weights, 1.0)
        for name, density in each.items()
    ]  # fmt: skip
    coin = Bernoulli(parameter(torch.tensor([-7.0, 0.0, 2.0], dtype=torch.float64)).expand(-1, 2, -1, -1, -1))
    both = coin.recon(column(torch.tensor([0.0, 1.0], dtype=torch.float64))).neg().exp().sum(-1)
    return [*rows, worst("bernoulli: the two probabilities sum to 1", both, 1.0)]
