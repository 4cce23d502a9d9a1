"""What posteriors and priors can do, and KL(q(z|x) || p(z)) in closed form where there is one."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from vae_lightning.distributions.normal import (
    DiagonalNormal,
    FullNormal,
    StandardNormal,
    kl_diagonal_normals,
    kl_full_to_standard_normal,
    kl_to_standard_normal,
)


class Distribution(Protocol):
    """What a posterior's or prior's forward returns: a density over latent vectors."""

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of z (K, B, L) in nats: (K, B)."""


class Prior(Distribution, Protocol):
    """A distribution that is sampled from a generator."""

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draws on the generator's device: (count, L)."""


class Posterior(Distribution, Protocol):
    """A distribution that is sampled by transforming standard normal noise."""

    @property
    def mean(self) -> Tensor:
        """E_q[z | x], (B, L)."""

    def rsample(self, noise: Tensor) -> Tensor:
        """noise (K, B, L) -> samples (K, B, L), differentiable in the distribution's parameters."""

    def detach(self) -> "Posterior":
        """The same, its parameters being constants."""


# (type of q, type of p) -> KL(q || p) per image, (B,), in nats
CLOSED_FORM: dict[tuple[type, type], Callable[..., Tensor]] = {
    (DiagonalNormal, StandardNormal): lambda q, _: kl_to_standard_normal(q.mean, q.std),
    (DiagonalNormal, DiagonalNormal): lambda q, p: kl_diagonal_normals(q.mean, q.std, p.mean, p.std),
    (FullNormal, StandardNormal): lambda q, _: kl_full_to_standard_normal(q.mean, q.scale_tril),
}


def kl_divergence(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q || p) per image in nats, (B,) and >= 0, where CLOSED_FORM has it, else None."""
    closed_form = CLOSED_FORM.get((type(q), type(p)))
    return None if closed_form is None else closed_form(q, p)
