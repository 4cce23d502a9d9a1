"""The true posterior of a trained model with one or two latent dimensions, and log p(x) = Lb + KL(q || p(z|x)) on it.

Kingma & Welling 2014, https://arxiv.org/abs/1312.6114. In nats; log p(x|z) holds the constant that the loss leaves out.
Everything but the decoder's network, which stays as it was trained, is float64.
Shapes: P points of a grid, B images, C H W of an image, L latent dimensions.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vae_lightning import rng
from vae_lightning.distributions import Posterior
from vae_lightning.distributions.likelihood import Likelihood
from vae_lightning.module import VAE
from vae_lightning.objectives import elbo
from vae_lightning.quadrature import Grid

MOST_LATENTS = 2
ROWS = 1024  # points that are decoded at once: 6 MB for 784 pixels in float64
REACH = 6.0  # standard deviations around a mean; beyond are 2e-9 of a normal
DEPTH = 25.0  # nats below the highest point, where the posterior counts as nothing
DRAWS = 4096  # of a prior or posterior, to see where it is
SAMPLES = 4000  # behind the Monte Carlo estimate of the bound
COARSE, START = {1: 2001, 2: 121}, {1: 501, 2: 61}  # points along an axis
MOST_POINTS = 500_000  # of a grid that is made finer
GOAL = 1e-3  # nats: a grid is made finer until its error is less

TERMS = ("log_p", "bound", "gap")  # of a Claim: log p(x) = Lb + KL

Box = tuple[Tensor, Tensor]  # the corners with the smallest and the largest coordinates, (L,) and (L,)


class SinglePrecision(nn.Module):
    """A network in float32 among modules in float64: nearly all of the time goes into it, and four times as fast."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.float()

    def forward(self, z: Tensor, *condition: Tensor) -> Tensor:
        """What the network makes of z, in float64."""
        return self.network(z.float(), *condition).double()


@dataclass(frozen=True)
class Claim:
    """What the integrals say about one image, in nats."""

    log_p: float  # log p(x)
    bound: float  # Lb, by quadrature over q
    gap: float  # KL(q(z|x) || p(z|x)), on the grid of the posterior
    error: float  # of the quadrature: the largest change of the three with half the points along each axis
    sampled_bound: float  # Lb by SAMPLES samples, as the loss computes it
    sampled_error: float  # its standard error
    posterior: Posterior  # q(z|x)
    grid: Grid  # covers both
    log_posterior: Tensor  # log p(z|x) on it, (P,)
    log_q: Tensor  # log q(z|x) on it, (P,)


def claims(module: VAE, x: Tensor, condition: Sequence[Tensor] = ()) -> Iterator[Claim]:
    """The claim of each of the images x (B, C, H, W) in [0, 1]; changes the precision of the module.

    ``condition``: labels (B,) of a conditional model. Raises ValueError for more than two latent dimensions.
    """
    if module.latent_dim > MOST_LATENTS:
        raise ValueError(f"model.latent_dim={module.latent_dim}: must be 1 or 2, as z is integrated over on a grid")
    with torch.no_grad():
        around_prior = spread(module.prior(module.encoder).sample(DRAWS, rng.generator("cpu", 0, "verify", "prior")))
        module.double()
        if isinstance(module.decoder, Likelihood):
            module.decoder.network = SinglePrecision(module.decoder.network)
        posterior = module.encoder(x.double(), *condition)
        draws = posterior.rsample(noise("posterior", DRAWS, len(x), module.latent_dim))
    around_q = [spread(draws[:, image]) for image in range(len(x))]
    grid = coarse_grid(union(around_prior, *around_q))
    with torch.no_grad():
        heights = log_joint(module, x.double(), grid.points, condition)  # (P, B)
    for image, near in enumerate(around_q):
        labels = [label[image : image + 1] for label in condition]
        with torch.no_grad():
            yield claim(
                module, x[image : image + 1].double(), labels, union(region(grid, heights[:, image]), near), near
            )


def claim(module: VAE, x: Tensor, condition: Sequence[Tensor], box: Box, near: Box) -> Claim:
    """The claim of one image x (1, C, H, W), whose posterior lies in ``box``, and q in ``near``."""
    q = module.encoder(x, *condition)
    points = START[module.latent_dim]

    def height(z: Tensor) -> Tensor:
        return log_joint(module, x, z, condition)[:, 0]

    def both(grid: Grid) -> Tensor:
        return torch.stack([height(grid.points), q.log_prob(grid.points.unsqueeze(1))[:, 0]], dim=-1)

    for _ in range(2):  # the box was seen on a coarse grid
        grid = Grid.over(*box, points)
        box = region(grid, height(grid.points))
    grid, values, (log_p, gap), error = refine(both, evidence_and_gap, union(box, near), 2 * points - 1)
    _, _, (bound,), error_of_bound = refine(both, lower_bound, near, points)
    estimates = sampled_bound(module, x, condition)
    return Claim(
        log_p=log_p,
        bound=bound,
        gap=gap,
        error=max(error, error_of_bound),
        sampled_bound=float(estimates.mean()),
        sampled_error=float(estimates.std()) / math.sqrt(len(estimates)),
        posterior=q,
        grid=grid,
        log_posterior=values[:, 0] - log_p,
        log_q=values[:, 1],
    )


def log_joint(module: VAE, x: Tensor, z: Tensor, condition: Sequence[Tensor] = ()) -> Tensor:
    """log p(x|z) + log p(z) of images x (B, C, H, W) at points z (P, L): (P, B)."""
    if condition and len(x) > 1:  # one decoder for each label
        each = zip(x.split(1), *(label.split(1) for label in condition), strict=True)
        return torch.cat([log_joint(module, image, z, labels) for image, *labels in each], dim=1)
    prior, parts = module.prior(module.encoder), []
    for part in z.unsqueeze(1).split(ROWS):
        likelihood = module.decoder(part, *condition)
        recon = torch.cat([likelihood.recon(image) for image in x.split(1)], dim=1)
        parts.append(prior.log_prob(part) - recon - likelihood.log_normalizer)
    return torch.cat(parts)


def evidence_and_gap(grid: Grid, values: Tensor) -> tuple[float, float]:
    """log p(x) and KL(q(z|x) || p(z|x)) from log p(x, z) and log q(z|x), values (P, 2)."""
    log_joint, log_q = values.unbind(-1)
    log_p = grid.log_integral(log_joint)
    return float(log_p), float(grid.integral(log_q.exp() * (log_q - (log_joint - log_p))))


def lower_bound(grid: Grid, values: Tensor) -> tuple[float]:
    """Lb = E_q[log p(x, z) - log q(z|x)] from log p(x, z) and log q(z|x), values (P, 2)."""
    log_joint, log_q = values.unbind(-1)
    return (float(grid.integral(log_q.exp() * (log_joint - log_q))),)


def refine(
    evaluate: Callable[[Grid], Tensor],
    integrals: Callable[[Grid, Tensor], tuple[float, ...]],
    box: Box,
    points: int,
) -> tuple[Grid, Tensor, tuple[float, ...], float]:
    """A grid that is fine enough, the values there, their integrals, and the error, as of ``Claim.error``."""
    while True:
        grid = Grid.over(*box, points)
        values = evaluate(grid)
        found, by_half = integrals(grid, values), integrals(*grid.coarser(values))
        error = max(abs(one - other) for one, other in zip(found, by_half, strict=True))
        points = 2 * points - 1
        if error < GOAL or points ** len(grid.axes) > MOST_POINTS:
            return grid, values, found, error


def sampled_bound(module: VAE, x: Tensor, condition: Sequence[Tensor]) -> Tensor:
    """Estimates of Lb from one sample each, by the module and the objective that train it: (SAMPLES,)."""
    estimates = []
    for eps in noise("bound", 1, SAMPLES, module.latent_dim).split(ROWS // 4, dim=1):
        labels = [label.expand(eps.shape[1]) for label in condition]
        estimates.append(-elbo(module(x.expand(eps.shape[1], -1, -1, -1), eps, *labels)))
    latent = torch.zeros(1, 1, module.latent_dim, dtype=x.dtype)
    return torch.cat(estimates) - module.decoder(latent, *condition).log_normalizer


def noise(name: str, *shape: int) -> Tensor:
    """Fixed draws from N(0, 1)."""
    return rng.normal(shape, "cpu", 0, "verify", name).double()


def spread(draws: Tensor) -> Box:
    """REACH standard deviations around the mean of draws (K, L)."""
    mean, std = draws.double().mean(0), draws.double().std(0)
    return mean - REACH * std, mean + REACH * std


def union(*boxes: Box) -> Box:
    """The smallest box that holds all."""
    low, high = zip(*boxes, strict=True)
    return torch.stack(low).amin(0), torch.stack(high).amax(0)


def coarse_grid(box: Box) -> Grid:
    """Where to look for posteriors; at least twelve prior standard deviations wide, so a step is a tenth of one."""
    return Grid.over(*box, COARSE[len(box[0])])


def region(grid: Grid, heights: Tensor) -> Box:
    """The box of the points that are at most DEPTH below the highest, and of their neighbours."""
    high = grid.points[heights > heights.max() - DEPTH]
    return high.amin(0) - grid.step, high.amax(0) + grid.step
