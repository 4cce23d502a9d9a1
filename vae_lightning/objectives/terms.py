"""The terms of the bound and the base class of objectives.

Shapes: K samples, B images, L latent dimensions. All terms are in nats per image.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from vae_lightning.checks.ranges import Integer, Number, Option
from vae_lightning.distributions import Posterior, Prior, kl_divergence, layer_kl_divergences
from vae_lightning.distributions.component import Component
from vae_lightning.objectives.annealing import Annealing, Constant

Beta = Annotated[float, Option("weight of the KL term", Number(least=0))]
NumSamples = Annotated[int, Option("posterior samples per image", Integer(1))]


@dataclass
class Terms:
    """Unreduced terms of the bound, in nats, for B images and K posterior samples.

    mean_recon, kl, log_q and log_p are computed on first access.
    """

    recon: Float[Tensor, "K B"]  # -log p(x | z_k) without the likelihood's log_normalizer
    z: Float[Tensor, "K B L"]  # samples of q(z | x)
    posterior: Posterior  # q(z | x)
    prior: Prior  # p(z)

    @cached_property
    def mean_recon(self) -> Float[Tensor, " B"]:
        """E_q[-log p(x|z)], estimated as the mean of recon over the K samples, (B,)."""
        return self.recon.mean(0)

    @cached_property
    def kl(self) -> Float[Tensor, " B"]:
        """KL(q(z|x) || p(z)), (B,), >= 0, in closed form if it exists.

        Between distributions with the same stochastic layers it is the sum of ``layer_kl``.
        Otherwise it is the unbiased estimate 1/K sum_k [log q(z_k|x) - log p(z_k)], which can be
        negative.
        """
        closed_form = kl_divergence(self.posterior, self.prior)
        if closed_form is not None:
            return closed_form
        if self.layer_kl:
            return torch.stack(self.layer_kl).sum(0)
        return (self.log_q - self.log_p).mean(0)

    @cached_property
    def layer_kl(self) -> tuple[Float[Tensor, " B"], ...]:
        """The KL of each stochastic layer, (B,) each, from the top; empty without layers."""
        return layer_kl_divergences(self.posterior, self.prior, self.z)

    @cached_property
    def log_q(self) -> Float[Tensor, "K B"]:
        """The log density log q(z_k | x), (K, B)."""
        return self.posterior.log_prob(self.z)

    @cached_property
    def log_p(self) -> Float[Tensor, "K B"]:
        """The log density log p(z_k), (K, B)."""
        return self.prior.log_prob(self.z)


class Objective(Component):
    """Base class of objectives: a subclass maps (Terms, step) to the loss of each image, (B,).

    Args:
        beta: weight of the KL term, finite and >= 0.
        num_samples: K, posterior samples per image.
        annealing: schedule of a factor that multiplies beta; None: the factor is 1.

    Attributes:
        selected_by: name of the validation value that selects best.ckpt, see ``bound``.
    """

    selected_by = "neg_elbo"

    def __init__(
        self, beta: Beta = 1.0, num_samples: NumSamples = 1, annealing: Annealing | None = None
    ) -> None:
        super().__init__()
        self.beta = beta
        self.num_samples = num_samples
        self.annealing = annealing or Constant()

    def beta_at(self, step: int) -> float:
        """Returns the weight of the KL term at this optimizer step."""
        return self.beta * self.annealing(step)

    def bound(self, terms: Terms) -> Float[Tensor, " B"] | None:
        """The value at beta = 1 whose mean over the validation images selects best.ckpt, (B,).

        It is logged as ``selected_by``, lower is better. None: the negative ELBO, which is always
        logged.
        """
        return None

    def weights(self, step: int) -> dict[str, float]:
        """Returns the weights of the loss at this optimizer step by name, to be logged."""
        return {"beta": self.beta_at(step)}
