"""The protocols of posteriors and priors, and the closed forms of KL(q(z|x) || p(z))."""

from collections.abc import Callable
from typing import Protocol

import torch
from jaxtyping import Float
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
    """A density over latent vectors, as returned by the forward of a posterior or prior."""

    def log_prob(self, z: Float[Tensor, "*shape L"]) -> Float[Tensor, "*shape"]:
        """Returns the log density of z (K, B, L) in nats: (K, B)."""
        ...


class Prior(Distribution, Protocol):
    """A distribution that is sampled with a random number generator."""

    def sample(self, count: int, generator: torch.Generator) -> Float[Tensor, "{count} L"]:
        """Returns samples (count, L) on the generator's device."""
        ...


class Posterior(Distribution, Protocol):
    """A distribution that is sampled by transforming standard normal noise."""

    @property
    def mean(self) -> Float[Tensor, "B L"]:
        """E_q[z | x], (B, L)."""
        ...

    def transform(self, noise: Float[Tensor, "K B L"]) -> Float[Tensor, "K B L"]:
        """Maps noise (K, B, L) to samples (K, B, L), differentiable in the parameters."""
        ...

    def marginals(self) -> DiagonalNormal | None:
        """Returns the marginals of the L dimensions; None if they have no closed form."""
        ...

    def detach(self) -> "Posterior":
        """Returns the same distribution without gradients to its parameters."""
        ...


# maps (type of q, type of p) to a function that returns KL(q || p) per image, (B,), in nats
CLOSED_FORM: dict[tuple[type, type], Callable[..., Float[Tensor, " B"]]] = {
    (DiagonalNormal, StandardNormal): lambda q, _: kl_to_standard_normal(q.mean, q.std),
    (DiagonalNormal, DiagonalNormal): lambda q, p: kl_diagonal_normals(
        q.mean, q.std, p.mean, p.std
    ),
    (FullNormal, StandardNormal): lambda q, _: kl_full_to_standard_normal(q.mean, q.scale_tril),
}


def kl_divergence(q: Distribution, p: Distribution) -> Float[Tensor, " B"] | None:
    """Returns KL(q || p) per image in nats, (B,), >= 0; None if it has no closed form."""
    closed_form = CLOSED_FORM.get((type(q), type(p)))
    return None if closed_form is None else closed_form(q, p)
