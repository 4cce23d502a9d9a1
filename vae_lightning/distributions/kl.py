"""KL(q(z|x) || p(z)): in closed form where there is one, else its unbiased Monte Carlo estimate."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from vae_lightning.distributions.normal import (
    DiagonalNormal,
    StandardNormal,
    kl_diagonal_normals,
    kl_to_standard_normal,
)


class Distribution(Protocol):
    """What a posterior's or prior's forward returns: a density over latent vectors."""

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of z (K, B, L) in nats: (K, B)."""


class Posterior(Distribution, Protocol):
    """A distribution that is sampled by transforming standard normal noise."""

    def rsample(self, noise: Tensor) -> Tensor:
        """noise (K, B, L) -> samples (K, B, L), differentiable in the distribution's parameters."""


# (type of q, type of p) -> KL(q || p) per image, (B,), in nats
CLOSED_FORM: dict[tuple[type, type], Callable[..., Tensor]] = {
    (DiagonalNormal, StandardNormal): lambda q, _: kl_to_standard_normal(q.mean, q.std),
    (DiagonalNormal, DiagonalNormal): lambda q, p: kl_diagonal_normals(q.mean, q.std, p.mean, p.std),
}


def kl_divergence(q: Distribution, p: Distribution, z: Tensor) -> Tensor:
    """KL(q || p) per image in nats, (B,).

    The closed form if CLOSED_FORM has one (z is then not used and the value is >= 0), else the unbiased estimate
    1/K sum_k [log q(z_k) - log p(z_k)] from the samples z (K, B, L) of q, which can be negative.
    """
    closed_form = CLOSED_FORM.get((type(q), type(p)))
    if closed_form is not None:
        return closed_form(q, p)
    return (q.log_prob(z) - p.log_prob(z)).mean(0)
