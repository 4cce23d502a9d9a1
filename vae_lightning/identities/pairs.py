"""One image of a linear-Gaussian model with one latent dimension, and a q that is not its posterior.

With K = 1 or 2 samples every expectation over the samples is an integral over a line or a plane: no Monte Carlo.
Shapes: K samples, P points of a grid.
"""

import math

import torch
from torch import Tensor
from torch.distributions import Normal

from vae_lightning.distributions import DiagonalNormal
from vae_lightning.identities.linear import LinearGaussian
from vae_lightning.objectives import Terms
from vae_lightning.quadrature import Grid, standard_normal_weights

OFFSET, WIDER = 0.7, 1.3  # q's mean less the posterior's, in its standard deviations, and the ratio of the two


class OneLatent:
    """The model, and functions of the parameters (mean, std), (2,), of q."""

    def __init__(self) -> None:
        self.model = LinearGaussian(1)
        self.log_p = self.model.log_p[0]
        self.posterior = Normal(self.model.posterior.mean[0, 0], self.model.posterior.stddev[0, 0])
        mean, std = self.posterior.mean, self.posterior.stddev
        self.exact = torch.stack([mean, std])
        self.q = torch.stack([mean + OFFSET * std, WIDER * std])

    def noise(self, samples: int, points: int = 241) -> tuple[Tensor, Tensor]:
        """Noise (K, P, 1) at the points of a grid in K dimensions, and the weights (P,) of their expectation."""
        grid = Grid.cube(9, samples, points)
        return grid.points.T.unsqueeze(-1), standard_normal_weights(grid)

    def terms(self, q: Tensor, noise: Tensor) -> Terms:
        """The package's terms of q (2,) or (P, 2) from noise (K, P, 1)."""
        parameters = q.expand(noise.shape[1], 2)
        normal = DiagonalNormal(parameters[:, :1], parameters[:, 1:])
        return self.model.terms(normal, noise, self.model.x.expand(noise.shape[1], -1, -1, -1))

    def bound(self, q: Tensor, samples: int) -> Tensor:
        """L_K by the definition: the integral of prod_k q(z_k) log 1/K sum_k p(x, z_k)/q(z_k) over z, a number.

        Differentiable through the density q(z), at fixed z: what reparameterised gradients are held against.
        """
        density = Normal(q[0], q[1])
        mean, reach = (value.expand(samples) for value in (q[0].detach(), 10 * q[1].detach()))
        grid = Grid.over(mean - reach, mean + reach, 301)
        log_q = density.log_prob(grid.points)  # (P, K)
        log_weights = self.log_p + self.posterior.log_prob(grid.points) - log_q
        average = log_weights.logsumexp(-1) - math.log(samples)
        return grid.integral(log_q.sum(-1).exp() * average)
