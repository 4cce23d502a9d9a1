"""Objectives of recon and KL alone. K samples, B images, L latent dimensions; nats per image."""

import torch
from torch import Tensor, nn

from vae_lightning.annealing import Annealing
from vae_lightning.distributions import DiagonalNormalPosterior, StandardNormalPrior, kl_to_standard_normal
from vae_lightning.objectives.terms import Objective, Terms


def elbo(terms: Terms, beta: float = 1.0) -> Tensor:
    """Negative beta-ELBO per image, (B,): E_q[-log p(x|z)] + beta KL(q(z|x) || p(z)).

    beta = 1 is the bound -Lb of Kingma & Welling 2014, https://arxiv.org/abs/1312.6114;
    other values are the beta-VAE of Higgins et al. 2017, https://openreview.net/forum?id=Sy2fzU9gl.
    """
    return terms.recon.mean(0) + beta * terms.kl


class ELBO(Objective):
    """The negative beta-ELBO; with K > 1 samples, recon is their mean."""

    def forward(self, terms: Terms, step: int) -> Tensor:
        """Loss per image, (B,), at this optimiser step."""
        return elbo(terms, self.beta_at(step))


def free_bits_bound(terms: Terms, free_bits: float, beta: float = 1.0) -> Tensor:
    """Recon + beta sum_l max(free_bits, mean over the batch of KL_l), per image, (B,).

    A latent dimension costs nothing below ``free_bits`` nats, and so has no reason to collapse to the prior. For a
    normal posterior with diagonal covariance and the prior N(0, I). Kingma et al. 2016, section C.8,
    https://arxiv.org/abs/1606.04934.
    """
    mean, std = terms.posterior.mean, terms.posterior.std
    per_dim = kl_to_standard_normal(mean.unsqueeze(-1), std.unsqueeze(-1)).mean(0)  # (L,)
    return terms.recon.mean(0) + beta * per_dim.clamp(min=free_bits).sum()


class FreeBits(Objective):
    """The ELBO with ``free_bits`` nats of KL free in each latent dimension.

    Args:
        free_bits: nats per latent dimension, >= 0; with 0 the loss is the ELBO's.
        beta, num_samples, annealing: as for every objective.
    """

    def __init__(
        self, free_bits: float, beta: float = 1.0, num_samples: int = 1, annealing: Annealing | None = None
    ) -> None:
        super().__init__(beta, num_samples, annealing)
        self.free_bits = free_bits

    def check(self, encoder: nn.Module, prior: nn.Module, classes: int) -> None:
        """Needs a KL that is a sum over latent dimensions."""
        if not (isinstance(encoder, DiagonalNormalPosterior) and isinstance(prior, StandardNormalPrior)):
            raise ValueError(
                "objective=free_bits: must be with posterior=diagonal_normal and prior=standard_normal; under others"
                " the KL is not a sum over latent dimensions"
            )

    def forward(self, terms: Terms, step: int) -> Tensor:
        """Loss per image, (B,), at this optimiser step."""
        return free_bits_bound(terms, self.free_bits, self.beta_at(step))


def capacity_bound(terms: Terms, capacity: float, gamma: float) -> Tensor:
    """Recon + gamma |mean over the batch of KL - capacity|, per image, (B,).

    Burgess et al. 2018, https://arxiv.org/abs/1804.03599.
    """
    return terms.recon.mean(0) + gamma * (terms.kl.mean() - capacity).abs()


class Capacity(Objective):
    """Holds the KL at a capacity that grows by optimiser step (``annealing``).

    Args:
        capacity: nats of KL per image in the end, >= 0.
        gamma: weight of the distance from it.
        num_samples: K.
        annealing: factor of the capacity by optimiser step.
    """

    def __init__(self, capacity: float, gamma: float, num_samples: int = 1, annealing: Annealing | None = None) -> None:
        super().__init__(gamma, num_samples, annealing)
        self.capacity = capacity

    def beta_at(self, step: int) -> float:
        """gamma, the weight of the KL term's distance from the capacity."""
        return self.beta

    def forward(self, terms: Terms, step: int) -> Tensor:
        """Loss per image, (B,), at this optimiser step."""
        return capacity_bound(terms, self.capacity * self.annealing(step), self.beta)


class GECO(Objective):
    """Minimises the KL subject to recon = target: loss = KL + lambda (recon - target), lambda the multiplier.

    After every training step the moving average of (recon - target) / target, limited to +-1, times ``rate`` is added
    to log lambda. Rezende & Viola 2018, https://arxiv.org/abs/1810.00597. Both numbers are in the checkpoint.

    Args:
        target: recon in nats per image, > 0.
        rate: of log lambda.
        smoothing: of the moving average, 0 <= smoothing < 1.
        num_samples: K.
    """

    def __init__(self, target: float, rate: float, smoothing: float, num_samples: int = 1) -> None:
        super().__init__(num_samples=num_samples)
        self.target, self.rate, self.smoothing = target, rate, smoothing
        self.register_buffer("average", torch.zeros(()))
        self.register_buffer("log_multiplier", torch.zeros(()))

    def beta_at(self, step: int) -> float:
        """1 / lambda: the weight of the KL term beside recon's one."""
        return float((-self.log_multiplier).exp())

    def forward(self, terms: Terms, step: int) -> Tensor:
        """Loss per image, (B,); in training lambda moves afterwards."""
        distance = terms.recon.mean(0) - self.target
        loss = terms.kl + self.log_multiplier.exp() * distance
        if self.training:
            with torch.no_grad():
                self.average.lerp_((distance.mean() / self.target).clamp(-1, 1), 1 - self.smoothing)
                self.log_multiplier.add_(self.rate * self.average).clamp_(-10, 10)
        return loss
