"""The importance-weighted bound and three estimators of its gradient.

Shapes: K samples, B images, L latent dimensions.
"""

import math
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from vae_lightning.checks.errors import ConfigError
from vae_lightning.checks.ranges import Choice, Integer, Number, Option
from vae_lightning.objectives.annealing import Annealing
from vae_lightning.objectives.terms import Objective, Terms

GRADIENTS = ("standard", "stl", "dreg")


def iwae(terms: Terms, beta: float = 1.0, gradient: str = "standard") -> Float[Tensor, " B"]:
    """Returns the negative importance-weighted bound per image, -log 1/K sum_k w_k: (B,).

        log w_k = log p(x|z_k) + beta [log p(z_k) - log q(z_k|x)]

    without the likelihood's log_normalizer. With beta = 1, the bound converges to log p(x) as K
    grows. Burda et al. 2016, https://arxiv.org/abs/1509.00519.

    Args:
        terms: the terms of the bound.
        beta: weight of log p(z_k) - log q(z_k|x).
        gradient: estimator of the gradient; it does not change the value. ``standard`` is the
            gradient of the bound. ``stl``, sticking the landing, omits the score of q, whose mean
            is zero for K = 1 (Roeder et al. 2017, https://arxiv.org/abs/1703.09194). ``dreg``,
            doubly reparameterized, is unbiased for every K (Tucker et al. 2019,
            https://arxiv.org/abs/1810.04152) and every beta. With the weights v_k, normalized to
            sum to one, the gradient through z_k has the weight v_k [(1 - beta) + beta v_k], which
            is v_k^2 for beta = 1: reparameterizing the score -beta v_k d log q(z_k) turns it into
            the gradient of -beta v_k with respect to z_k, which is -beta v_k (1 - v_k) times that
            of log w_k.
    """
    without_score = gradient != "standard" and torch.is_grad_enabled()
    log_q = terms.posterior.detach().log_prob(terms.z) if without_score else terms.log_q
    log_weights = beta * (terms.log_p - log_q) - terms.recon  # (K, B)
    if gradient == "dreg" and terms.z.requires_grad:
        weights = log_weights.detach().softmax(0).unsqueeze(-1)  # (K, B, 1)
        # gradients of the decoder and the prior keep the weight v_k; the hook multiplies gradients
        # that flow through z to the encoder by the other factor
        factor = (1 - beta) + beta * weights
        terms.z.register_hook(lambda grad: grad * factor)
    return math.log(len(log_weights)) - log_weights.logsumexp(0)


class IWAE(Objective):
    """The negative importance-weighted bound.

    Args:
        num_samples: K, importance samples per image.
        gradient: ``standard``, ``stl`` or ``dreg``, see ``iwae``.
        beta: weight of log p(z) - log q(z|x); with 1 the loss is the negative bound.
        annealing: schedule of a factor that multiplies beta; None: the factor is 1.
    """

    selected_by = "neg_iwae"

    def __init__(
        self,
        num_samples: Annotated[int, Option("importance samples per image, K", Integer(1))],
        gradient: Annotated[str, Option("gradient estimator", Choice(GRADIENTS))] = "standard",
        beta: Annotated[
            float, Option("weight of log p(z) - log q(z|x); 1 is the bound", Number(least=0))
        ] = 1.0,
        annealing: Annealing | None = None,
    ) -> None:
        super().__init__(beta, num_samples, annealing)
        if gradient not in GRADIENTS:
            raise ConfigError(
                f"objective.gradient={gradient}: must be one of {', '.join(GRADIENTS)}"
            )
        self.gradient = gradient

    def bound(self, terms: Terms) -> Float[Tensor, " B"]:
        """The negative importance-weighted bound per image, (B,)."""
        return iwae(terms)

    def forward(self, terms: Terms, step: int) -> Float[Tensor, " B"]:
        """Returns the loss per image, (B,), at this optimizer step."""
        return iwae(terms, self.beta_at(step), self.gradient)
