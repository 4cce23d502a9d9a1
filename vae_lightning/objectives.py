"""Objectives: from the terms of the bound to the loss of each image, in nats. K samples, B images, L latents."""

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from vae_lightning.distributions import Distribution, kl_divergence


@dataclass(frozen=True)
class Terms:
    """Terms of the bound for B images and K posterior samples, unreduced, in nats; each is computed when asked for."""

    recon: Tensor  # -log p(x | z_k), up to the likelihood's constant, (K, B)
    z: Tensor  # samples of q(z | x), (K, B, L)
    posterior: Distribution  # q(z | x)
    prior: Distribution  # p(z)

    @cached_property
    def kl(self) -> Tensor:
        """KL(q(z|x) || p(z)), (B,): closed form where there is one, else its unbiased estimate from z."""
        return kl_divergence(self.posterior, self.prior, self.z)


def elbo(terms: Terms, beta: float = 1.0) -> Tensor:
    """Negative beta-ELBO per image, (B,): E_q[-log p(x|z)] + beta KL(q(z|x) || p(z)).

    beta = 1 is the bound -Lb of Kingma & Welling 2014, https://arxiv.org/abs/1312.6114;
    other values are the beta-VAE of Higgins et al. 2017, https://openreview.net/forum?id=Sy2fzU9gl.
    """
    return terms.recon.mean(0) + beta * terms.kl


class ELBO(nn.Module):
    """The negative beta-ELBO as a configured objective.

    Args:
        beta: weight of the KL term, finite and >= 0.
        num_samples: K, posterior samples per image over which recon is averaged.
    """

    def __init__(self, beta: float = 1.0, num_samples: int = 1) -> None:
        super().__init__()
        self.beta = beta
        self.num_samples = num_samples

    def forward(self, terms: Terms, step: int) -> Tensor:
        """Loss per image, (B,), at this optimiser step."""
        return elbo(terms, self.beta_at(step))

    def beta_at(self, step: int) -> float:
        """The weight of the KL term at this optimiser step."""
        return self.beta
