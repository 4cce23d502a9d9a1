"""The linear-Gaussian model, for which log p(x), the posterior and the bound have closed forms.

    z ~ N(0, I), x|z ~ N(W z + b, I/2)
    log p(x) = log N(x; b, W W' + I/2)
    p(z|x) = N(M^-1 W'(x - b), M^-1/2), M = W'W + I/2

Tipping & Bishop 1999, https://doi.org/10.1111/1467-9868.00196. The reference values are computed
with torch.distributions and are compared with the results of this package.
Shapes: K samples, B images, L latent dimensions, D pixels.
"""

import math
from functools import partial

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from vae_lightning.distributions import (
    FullNormal,
    Posterior,
    SquaredErrorLikelihood,
    StandardNormal,
)
from vae_lightning.networks import MLPDecoder
from vae_lightning.objectives import Terms
from vae_lightning.verification.identities.row import normal

PIXELS = 5


class LinearGaussian:
    """The model with fixed weights, built from the linear decoder and the squared error."""

    def __init__(self, latent_dim: int, images: int = 1, orthogonal: bool = False) -> None:
        shape = (1, 1, PIXELS)
        network = partial(MLPDecoder, latent_dim=latent_dim, image_shape=shape)
        self.likelihood = SquaredErrorLikelihood(network, mean_activation="identity").double()
        self.weight, self.bias = self.likelihood.parameters()
        with torch.no_grad():
            weight = normal("weight", PIXELS, latent_dim)
            if orthogonal:  # the posterior then has a diagonal covariance
                weight = torch.linalg.qr(weight).Q * torch.arange(1, latent_dim + 1)
            self.weight.copy_(weight)
            self.bias.copy_(normal("bias", PIXELS))
        self.x = normal("x", images, *shape)
        self.prior = StandardNormal(latent_dim)
        self.log_normalizer = self.likelihood(
            torch.zeros(1, 1, latent_dim, dtype=torch.float64)
        ).log_normalizer
        self.log_p, self.posterior = self.closed_forms(self.weight.detach(), self.bias.detach())

    def closed_forms(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, MultivariateNormal]:
        """Returns log p(x), (B,), and p(z|x) of the B images in closed form."""
        size, latent_dim = weight.shape
        x = self.x.flatten(1)
        evidence = MultivariateNormal(
            bias, weight @ weight.T + torch.eye(size, dtype=torch.float64) / 2
        )
        inverse = (weight.T @ weight + torch.eye(latent_dim, dtype=torch.float64) / 2).inverse()
        return evidence.log_prob(x), MultivariateNormal((x - bias) @ weight @ inverse, inverse / 2)

    def exact_posterior(self) -> FullNormal:
        """Returns p(z|x) as a posterior of this package."""
        return FullNormal(self.posterior.mean, self.posterior.scale_tril)

    def terms(self, q: Posterior, noise: Tensor, x: Tensor | None = None) -> Terms:
        """Returns the terms of the bound for noise (K, B, L), as the training module does."""
        z = q.transform(noise)
        return Terms(self.likelihood(z).recon(self.x if x is None else x), z, q, self.prior)


def sigma_points(images: int, latent_dim: int) -> Tensor:
    """Returns noise (2L, B, L) that replaces sampling for quadratic functions.

    The mean of a quadratic function over the points +-sqrt(L) e_i is its expectation under N(0, I).
    Julier & Uhlmann 1997, https://doi.org/10.1117/12.280797.
    """
    points = math.sqrt(latent_dim) * torch.eye(latent_dim, dtype=torch.float64)
    return torch.cat([points, -points]).unsqueeze(1).expand(-1, images, -1)


def as_multivariate(mean: Tensor, scale_tril: Tensor) -> MultivariateNormal:
    """Returns N(mean, scale_tril scale_tril') as a distribution of torch.distributions."""
    return MultivariateNormal(mean, scale_tril=scale_tril)
