"""A linear-Gaussian model with one latent dimension and one image, and a q that is not p(z|x).

With K = 1 or 2 samples, an expectation over the samples is an integral over a line or a plane and
requires no Monte Carlo. Shapes: K samples, P points of a grid.
"""

import math

import torch
from torch import Tensor
from torch.distributions import Normal

from vae_lightning.distributions import DiagonalNormal
from vae_lightning.objectives import Terms
from vae_lightning.verification.identities.linear import LinearGaussian
from vae_lightning.verification.quadrature import Grid, standard_normal_weights

OFFSET = 0.7  # (mean of q - mean of p(z|x)) / std of p(z|x)
STD_RATIO = 1.3  # std of q / std of p(z|x)


class OneLatent:
    """The model, and functions of the parameters q = (mean, std), (2,), of q(z|x)."""

    def __init__(self) -> None:
        self.model = LinearGaussian(1)
        self.log_p = self.model.log_p[0]
        self.posterior = Normal(self.model.posterior.mean[0, 0], self.model.posterior.stddev[0, 0])
        mean, std = self.posterior.mean, self.posterior.stddev
        self.exact = torch.stack([mean, std])
        self.q = torch.stack([mean + OFFSET * std, STD_RATIO * std])

    def noise(self, samples: int, points: int = 241) -> tuple[Tensor, Tensor]:
        """Returns noise (K, P, 1) on a grid in K dimensions, and weights (P,) for expectations.

        The sum of weights times values is the expectation over K draws from N(0, 1).
        """
        grid = Grid.cube(9, samples, points)
        return grid.points.T.unsqueeze(-1), standard_normal_weights(grid)

    def terms(self, q: Tensor, noise: Tensor) -> Terms:
        """Returns the terms of the package for q (2,) or (P, 2) and noise (K, P, 1)."""
        parameters = q.expand(noise.shape[1], 2)
        normal = DiagonalNormal(parameters[:, :1], parameters[:, 1:])
        return self.model.terms(normal, noise, self.model.x.expand(noise.shape[1], -1, -1, -1))

    def bound(self, q: Tensor, samples: int) -> Tensor:
        """Returns L_K by its definition, an integral over z_1, ..., z_K on a grid: ().

            L_K = integral of prod_k q(z_k) log(1/K sum_k p(x, z_k)/q(z_k)) dz_1 ... dz_K

        The gradient with respect to q flows through the density q(z) at fixed z. It is the
        reference for reparameterized gradients.
        """
        density = Normal(q[0], q[1])
        mean, reach = (value.expand(samples) for value in (q[0].detach(), 10 * q[1].detach()))
        grid = Grid.over(mean - reach, mean + reach, 301)
        log_q = density.log_prob(grid.points)  # (P, K)
        log_weights = self.log_p + self.posterior.log_prob(grid.points) - log_q
        average = log_weights.logsumexp(-1) - math.log(samples)
        return grid.integral(log_q.sum(-1).exp() * average)
