"""The terms of the bound, and what every objective has. K samples, B images, L latent dimensions."""

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from vae_lightning.annealing import Annealing, Constant
from vae_lightning.distributions import Posterior, Prior, kl_divergence
from vae_lightning.part import Part


@dataclass
class Terms:
    """Terms of the bound for B images and K posterior samples, unreduced, in nats; each is computed when asked for."""

    recon: Tensor  # -log p(x | z_k), up to the likelihood's constant, (K, B)
    z: Tensor  # samples of q(z | x), (K, B, L)
    posterior: Posterior  # q(z | x)
    prior: Prior  # p(z)

    @cached_property
    def kl(self) -> Tensor:
        """KL(q(z|x) || p(z)), (B,): the closed form, >= 0, where there is one.

        Else the unbiased estimate 1/K sum_k [log q(z_k|x) - log p(z_k)], which can be negative.
        """
        closed_form = kl_divergence(self.posterior, self.prior)
        return (self.log_q - self.log_p).mean(0) if closed_form is None else closed_form

    @cached_property
    def log_q(self) -> Tensor:
        """log q(z_k | x), (K, B)."""
        return self.posterior.log_prob(self.z)

    @cached_property
    def log_p(self) -> Tensor:
        """log p(z_k), (K, B)."""
        return self.prior.log_prob(self.z)


class Objective(Part):
    """A Module called with (Terms, step) that returns the loss of each image, (B,).

    Args:
        beta: weight of the KL term, finite and >= 0.
        num_samples: K, posterior samples per image.
        annealing: factor of beta by optimiser step.
    """

    def __init__(self, beta: float = 1.0, num_samples: int = 1, annealing: Annealing | None = None) -> None:
        super().__init__()
        self.beta = beta
        self.num_samples = num_samples
        self.annealing = annealing or Constant()

    def beta_at(self, step: int) -> float:
        """The weight of the KL term at this optimiser step."""
        return self.beta * self.annealing(step)
