"""The importance-weighted bound and three estimators of its gradient. K samples, B images, L latent dimensions."""

import math

import torch
from torch import Tensor

from vae_lightning.annealing import Annealing
from vae_lightning.objectives.terms import Objective, Terms

GRADIENTS = ("standard", "stl", "dreg")


def iwae(terms: Terms, beta: float = 1.0, gradient: str = "standard") -> Tensor:
    """Negative importance-weighted bound per image, (B,): -log 1/K sum_k w_k.

    log w_k = log p(x|z_k) + beta [log p(z_k) - log q(z_k|x)], up to the likelihood's constant; with beta = 1 the bound
    rises with K towards log p(x). Burda et al. 2016, https://arxiv.org/abs/1509.00519. The value is the same for every
    ``gradient``: ``standard``; ``stl``, sticking the landing, without the score of q, whose mean is zero for K = 1
    (Roeder et al. 2017, https://arxiv.org/abs/1703.09194); ``dreg``, doubly reparameterised, unbiased for every K
    (Tucker et al. 2019, https://arxiv.org/abs/1810.04152).
    """
    sticking = gradient != "standard" and torch.is_grad_enabled()
    log_q = terms.posterior.detach().log_prob(terms.z) if sticking else terms.log_q
    log_weights = beta * (terms.log_p - log_q) - terms.recon  # (K, B)
    if gradient == "dreg" and terms.z.requires_grad:
        weights = log_weights.detach().softmax(0).unsqueeze(-1)  # (K, B, 1)
        # the decoder and the prior keep w_k as their weight; what goes through z to the encoder gets w_k^2
        terms.z.register_hook(lambda grad: grad * weights)
    return math.log(len(log_weights)) - log_weights.logsumexp(0)


class IWAE(Objective):
    """The negative importance-weighted bound.

    Args:
        num_samples: K.
        gradient: ``standard``, ``stl`` or ``dreg``.
        beta, annealing: weight of log p(z) - log q(z|x), for a warm-up; with beta = 1 the loss is the bound.
    """

    def __init__(
        self, num_samples: int, gradient: str = "standard", beta: float = 1.0, annealing: Annealing | None = None
    ) -> None:
        super().__init__(beta, num_samples, annealing)
        if gradient not in GRADIENTS:
            raise ValueError(f"objective.gradient={gradient}: must be one of {', '.join(GRADIENTS)}")
        self.gradient = gradient

    def forward(self, terms: Terms, step: int) -> Tensor:
        """Loss per image, (B,), at this optimiser step."""
        return iwae(terms, self.beta_at(step), self.gradient)
