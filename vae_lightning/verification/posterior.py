"""Computes the true posterior of a trained model with one or two latent dimensions on a grid.

It checks the identity log p(x) = ELBO + KL(q(z|x) || p(z|x)): Kingma & Welling 2014,
https://arxiv.org/abs/1312.6114. Values are in nats; log p(x|z) includes the constant that the loss
omits. The decoder network is computed in float32, everything else in float64.
Shapes: P points of a grid, B images, C H W of an image, L latent dimensions.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vae_lightning import rng
from vae_lightning.checks.errors import ConfigError
from vae_lightning.distributions import Posterior
from vae_lightning.distributions.likelihood import Likelihood
from vae_lightning.networks import UNCONDITIONAL, Condition
from vae_lightning.objectives import elbo
from vae_lightning.training.module import VAE
from vae_lightning.verification.quadrature import Grid

MAX_LATENT_DIM = 2
DECODED_AT_ONCE = 1024  # points, if their images have at most DECODED_PIXELS together
DECODED_PIXELS = 10_000_000  # 80 MB in float64
BOX_STDS = 6.0  # half width of a box in standard deviations; 2e-9 of a normal lies outside
REGION_DEPTH_NATS = 25.0  # points this far below the maximum log density are neglected
BOX_SAMPLES = 4096  # samples of a prior or posterior that determine its box
ELBO_SAMPLES = 4000  # samples of the Monte Carlo estimate of the ELBO
# points per axis, by number of latent dimensions
COARSE_GRID_POINTS = {1: 2001, 2: 121}  # the grid that locates the posteriors
INITIAL_GRID_POINTS = {1: 501, 2: 61}  # the grid that is refined
MAX_GRID_POINTS = 500_000  # a grid is not refined beyond this number of points
TARGET_ERROR_NATS = 1e-3  # a grid is refined until its error is smaller

EQUATION_TERMS = ("log_p", "bound", "gap")  # fields of PosteriorCheck: log p(x) = ELBO + KL

# the corners with the smallest and the largest coordinates, (L,) and (L,)
Box = tuple[Tensor, Tensor]


class SinglePrecision(nn.Module):
    """Computes a network in float32 within a float64 model.

    The network takes most of the time, and float32 is four times as fast.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.float()

    def forward(self, z: Tensor, *label: Tensor) -> Tensor:
        """Returns the outputs of the network for z, converted to float64."""
        return self.network(z.float(), *label).double()


@dataclass(frozen=True)
class PosteriorCheck:
    """The terms of log p(x) = ELBO + KL(q(z|x) || p(z|x)) for one image, in nats."""

    log_p: float  # log p(x)
    bound: float  # ELBO, by quadrature on a grid that covers q(z|x)
    gap: float  # KL(q(z|x) || p(z|x)), by quadrature on ``grid``
    # the largest change of the three values if every second point of each axis is removed
    error: float
    sampled_bound: float  # ELBO estimated from ELBO_SAMPLES samples, as in training
    sampled_error: float  # standard error of sampled_bound
    posterior: Posterior  # q(z|x)
    grid: Grid  # covers p(z|x) and q(z|x)
    log_posterior: Tensor  # log p(z|x) at the points of the grid, (P,)
    log_q: Tensor  # log q(z|x) at the points of the grid, (P,)


def check_posteriors(
    module: VAE, x: Tensor, condition: Condition = UNCONDITIONAL
) -> Iterator[PosteriorCheck]:
    """Yields the check of each of the images x (B, C, H, W) in [0, 1].

    It converts the module to float64, except for the decoder network. Raises ConfigError for more
    than two latent dimensions.
    """
    if module.latent_dim > MAX_LATENT_DIM:
        raise ConfigError(
            f"model.latent_dim={module.latent_dim}: must be 1 or 2,"
            " because the integrals over z use a grid"
        )
    with torch.no_grad():
        generator = rng.generator("cpu", 0, "verify", "prior")
        prior_box = box_of(module.prior(module.encoder).sample(BOX_SAMPLES, generator))
        module.double()
        if isinstance(module.decoder, Likelihood):
            module.decoder.network = SinglePrecision(module.decoder.network)
        posterior = module.encoder(x.double(), condition)
        samples = posterior.transform(noise("posterior", BOX_SAMPLES, len(x), module.latent_dim))
    q_boxes = [box_of(samples[:, image]) for image in range(len(x))]
    grid = coarse_grid(union(prior_box, *q_boxes))
    with torch.no_grad():
        log_densities = log_joint(module, x.double(), grid.points, condition)  # (P, B)
    for image, q_box in enumerate(q_boxes):
        index = slice(image, image + 1)
        box = union(high_density_box(grid, log_densities[:, image]), q_box)
        with torch.no_grad():
            yield check_posterior(module, x[index].double(), condition.take(index), box, q_box)


def check_posterior(
    module: VAE, x: Tensor, condition: Condition, box: Box, q_box: Box
) -> PosteriorCheck:
    """Returns the check of one image x (1, C, H, W).

    Args:
        module: the model.
        x: the image.
        condition: the label of a conditional model.
        box: contains the posterior p(z|x).
        q_box: contains q(z|x).
    """
    q = module.encoder(x, condition)
    points = INITIAL_GRID_POINTS[module.latent_dim]

    def log_p_x_z(z: Tensor) -> Tensor:
        return log_joint(module, x, z, condition)[:, 0]

    def log_densities(grid: Grid) -> Tensor:
        log_q = q.log_prob(grid.points.unsqueeze(1))[:, 0]
        return torch.stack([log_p_x_z(grid.points), log_q], dim=-1)

    for _ in range(2):  # the first box comes from a coarse grid and is larger than necessary
        grid = Grid.over(*box, points)
        box = high_density_box(grid, log_p_x_z(grid.points))
    grid, values, (log_p, gap), error = refine(
        log_densities, evidence_and_gap, union(box, q_box), 2 * points - 1
    )
    _, _, (bound,), error_of_bound = refine(log_densities, lower_bound, q_box, points)
    estimates = sampled_bound(module, x, condition)
    return PosteriorCheck(
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


def points_at_once(x: Tensor) -> int:
    """Returns how many points are decoded at once to images of the size of x (B, C, H, W)."""
    return max(4, min(DECODED_AT_ONCE, DECODED_PIXELS // x[0].numel()))


def log_joint(module: VAE, x: Tensor, z: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
    """Returns log p(x|z) + log p(z) of images x (B, C, H, W) at points z (P, L): (P, B)."""
    if condition.label is not None and len(x) > 1:  # the decoded images depend on the label
        single = [slice(image, image + 1) for image in range(len(x))]
        return torch.cat(
            [log_joint(module, x[index], z, condition.take(index)) for index in single], dim=1
        )
    prior, parts = module.prior(module.encoder), []
    for part in z.unsqueeze(1).split(points_at_once(x)):
        likelihood = module.decoder(part, condition)
        recon = torch.cat([likelihood.recon(image) for image in x.split(1)], dim=1)
        parts.append(prior.log_prob(part) - recon - likelihood.log_normalizer)
    return torch.cat(parts)


def evidence_and_gap(grid: Grid, values: Tensor) -> tuple[float, float]:
    """Returns log p(x) and KL(q(z|x) || p(z|x)).

    ``values`` (P, 2) are log p(x, z) and log q(z|x) at the points of the grid.
    """
    log_joint, log_q = values.unbind(-1)
    log_p = grid.log_integral(log_joint)
    return float(log_p), float(grid.integral(log_q.exp() * (log_q - (log_joint - log_p))))


def lower_bound(grid: Grid, values: Tensor) -> tuple[float]:
    """Returns the ELBO E_q[log p(x, z) - log q(z|x)] as a 1-tuple.

    ``values`` (P, 2) are log p(x, z) and log q(z|x) at the points of the grid.
    """
    log_joint, log_q = values.unbind(-1)
    return (float(grid.integral(log_q.exp() * (log_joint - log_q))),)


def refine(
    evaluate: Callable[[Grid], Tensor],
    integrals: Callable[[Grid, Tensor], tuple[float, ...]],
    box: Box,
    points: int,
) -> tuple[Grid, Tensor, tuple[float, ...], float]:
    """Refines a grid until its error is below TARGET_ERROR_NATS or it has too many points.

    Args:
        evaluate: returns the values at the points of a grid.
        integrals: returns integrals from a grid and its values.
        box: the box of the grid.
        points: initial number of points per axis.

    Returns:
        The grid, its values, the integrals and their error, see ``PosteriorCheck.error``.
    """
    while True:
        grid = Grid.over(*box, points)
        values = evaluate(grid)
        fine, coarse = integrals(grid, values), integrals(*grid.coarser(values))
        error = max(abs(one - other) for one, other in zip(fine, coarse, strict=True))
        points = 2 * points - 1
        if error < TARGET_ERROR_NATS or points ** len(grid.axes) > MAX_GRID_POINTS:
            return grid, values, fine, error


def sampled_bound(module: VAE, x: Tensor, condition: Condition) -> Tensor:
    """Returns single-sample estimates of the ELBO, computed as in training: (ELBO_SAMPLES,)."""
    estimates = []
    all_noise = noise("bound", 1, ELBO_SAMPLES, module.latent_dim)
    for eps in all_noise.split(points_at_once(x) // 4, dim=1):
        count = eps.shape[1]
        terms = module(x.expand(count, -1, -1, -1), eps, condition.expand(count))
        estimates.append(-elbo(terms))
    latent = torch.zeros(1, 1, module.latent_dim, dtype=x.dtype)
    return torch.cat(estimates) - module.decoder(latent, condition).log_normalizer


def noise(name: str, *shape: int) -> Tensor:
    """Returns fixed draws from N(0, 1), which depend only on name and shape."""
    return rng.normal(shape, "cpu", 0, "verify", name).double()


def box_of(samples: Tensor) -> Box:
    """Returns the box of BOX_STDS standard deviations around the mean of samples (K, L)."""
    mean, std = samples.double().mean(0), samples.double().std(0)
    return mean - BOX_STDS * std, mean + BOX_STDS * std


def union(*boxes: Box) -> Box:
    """Returns the smallest box that contains all boxes."""
    low, high = zip(*boxes, strict=True)
    return torch.stack(low).amin(0), torch.stack(high).amax(0)


def coarse_grid(box: Box) -> Grid:
    """Returns the grid that locates the posteriors.

    The box is at least twelve prior standard deviations wide. In two dimensions, the step is then a
    tenth of a standard deviation.
    """
    return Grid.over(*box, COARSE_GRID_POINTS[len(box[0])])


def high_density_box(grid: Grid, log_densities: Tensor) -> Box:
    """Returns the box of the points with high density and their neighbors.

    The log density of these points is at most REGION_DEPTH_NATS below the maximum.
    """
    high = grid.points[log_densities > log_densities.max() - REGION_DEPTH_NATS]
    return high.amin(0) - grid.step, high.amax(0) + grid.step
