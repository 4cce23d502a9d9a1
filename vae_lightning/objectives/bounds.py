"""Objectives that depend only on recon and KL, in nats per image.

Shapes: K samples, B images, L latent dimensions.
"""

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vae_lightning.checks.errors import ConfigError
from vae_lightning.checks.ranges import Number, Option
from vae_lightning.distributed import summed_over_processes
from vae_lightning.distributions import (
    DiagonalNormalPosterior,
    StandardNormalPrior,
    kl_to_standard_normal,
)
from vae_lightning.objectives.annealing import Annealing
from vae_lightning.objectives.terms import Beta, NumSamples, Objective, Terms


def elbo(terms: Terms, beta: float = 1.0) -> Float[Tensor, " B"]:
    """Returns the negative beta-ELBO per image, E_q[-log p(x|z)] + beta KL(q(z|x) || p(z)): (B,).

    beta = 1 is the negative ELBO of Kingma & Welling 2014, https://arxiv.org/abs/1312.6114; other
    values are the beta-VAE of Higgins et al. 2017, https://openreview.net/forum?id=Sy2fzU9gl.
    """
    return terms.mean_recon + beta * terms.kl


class ELBO(Objective):
    """The negative beta-ELBO; recon is averaged over the K samples."""

    def forward(self, terms: Terms, step: int) -> Float[Tensor, " B"]:
        """Returns the loss per image, (B,), at this optimizer step."""
        return elbo(terms, self.beta_at(step))


def free_bits_bound(terms: Terms, free_bits: float, beta: float = 1.0) -> Float[Tensor, " B"]:
    """Returns recon + beta sum_l max(free_bits, mean of KL_l over the batch), per image: (B,).

    Below ``free_bits`` nats, the KL of a latent dimension is not penalized, so the dimension is not
    driven to collapse to the prior. It requires a diagonal normal posterior and the prior N(0, I).
    Kingma et al. 2016, section C.8, https://arxiv.org/abs/1606.04934.
    """
    mean, std = terms.posterior.mean, terms.posterior.std  # pyright: ignore[reportAttributeAccessIssue] - FreeBits.check requires a DiagonalNormal
    per_dim = kl_to_standard_normal(mean.unsqueeze(-1), std.unsqueeze(-1)).mean(0)  # (L,)
    return terms.mean_recon + beta * per_dim.clamp(min=free_bits).sum()


class FreeBits(Objective):
    """The negative ELBO in which ``free_bits`` nats of KL per latent dimension are not penalized.

    Args:
        free_bits: nats per latent dimension, >= 0; with 0 the loss is the negative ELBO.
        beta, num_samples, annealing: see Objective.
    """

    def __init__(
        self,
        free_bits: Annotated[
            float, Option("nats of KL per latent dimension that cost nothing", Number(least=0))
        ],
        beta: Beta = 1.0,
        num_samples: NumSamples = 1,
        annealing: Annealing | None = None,
    ) -> None:
        super().__init__(beta, num_samples, annealing)
        self.free_bits = free_bits

    def check(self, encoder: nn.Module, prior: nn.Module, classes: int) -> None:
        """Raises ConfigError unless the KL is a closed-form sum over latent dimensions."""
        if not (
            isinstance(encoder, DiagonalNormalPosterior) and isinstance(prior, StandardNormalPrior)
        ):
            raise ConfigError(
                "objective=free_bits: requires posterior=diagonal_normal and prior=standard_normal:"
                " otherwise the KL is not a sum over latent dimensions"
            )

    def forward(self, terms: Terms, step: int) -> Float[Tensor, " B"]:
        """Returns the loss per image, (B,), at this optimizer step."""
        return free_bits_bound(terms, self.free_bits, self.beta_at(step))


def capacity_bound(terms: Terms, capacity: float, gamma: float) -> Float[Tensor, " B"]:
    """Returns recon + gamma |mean of KL over the batch - capacity|, per image: (B,).

    Burgess et al. 2018, https://arxiv.org/abs/1804.03599.
    """
    return terms.mean_recon + gamma * (terms.kl.mean() - capacity).abs()


class Capacity(Objective):
    """Keeps the KL close to a capacity, which grows with the optimizer step.

    Burgess et al. 2018, https://arxiv.org/abs/1804.03599.

    Args:
        capacity: final capacity in nats per image, >= 0.
        gamma: weight of the distance of the KL from the capacity.
        num_samples: K, posterior samples per image.
        annealing: schedule of a factor that multiplies the capacity; None: the factor is 1.
    """

    def __init__(
        self,
        capacity: Annotated[float, Option("final capacity, nats per image", Number(least=0))],
        gamma: Annotated[
            float, Option("weight of the distance of the KL from the capacity", Number(least=0))
        ],
        num_samples: NumSamples = 1,
        annealing: Annealing | None = None,
    ) -> None:
        super().__init__(num_samples=num_samples, annealing=annealing)
        self.capacity = capacity
        self.gamma = gamma

    def capacity_at(self, step: int) -> float:
        """Returns the capacity at this optimizer step, in nats per image."""
        return self.capacity * self.annealing(step)

    def weights(self, step: int) -> dict[str, float]:
        """Returns gamma, and the capacity at this optimizer step."""
        return {"gamma": self.gamma, "capacity": self.capacity_at(step)}

    def forward(self, terms: Terms, step: int) -> Float[Tensor, " B"]:
        """Returns the loss per image, (B,), at this optimizer step."""
        return capacity_bound(terms, self.capacity_at(step), self.gamma)


class GECO(Objective):
    """Minimizes the KL subject to recon = target: loss = KL + lambda (recon - target).

    After each training step, log lambda increases by ``rate`` times the moving average of
    (recon - target) / target, where each value is clipped to [-1, 1]. lambda and the moving average
    are stored in the checkpoint. Rezende & Viola 2018, https://arxiv.org/abs/1810.00597.

    Args:
        target: recon in nats per image, > 0.
        rate: learning rate of log lambda.
        smoothing: smoothing of the moving average, 0 <= smoothing < 1.
        num_samples: K, posterior samples per image.
    """

    average: Float[Tensor, ""]
    log_multiplier: Float[Tensor, ""]

    def __init__(
        self,
        target: Annotated[float, Option("recon to reach, nats per image", Number(above=0))],
        rate: Annotated[float, Option("learning rate of log lambda", Number(above=0))],
        smoothing: Annotated[
            float, Option("smoothing of the moving average", Number(least=0, below=1))
        ],
        num_samples: NumSamples = 1,
    ) -> None:
        super().__init__(num_samples=num_samples)
        self.target, self.rate, self.smoothing = target, rate, smoothing
        self.register_buffer("average", torch.zeros(()))
        self.register_buffer("log_multiplier", torch.zeros(()))

    def weights(self, step: int) -> dict[str, float]:
        """Returns lambda, the weight of recon relative to the KL."""
        return {"lambda": float(self.log_multiplier.exp())}

    def forward(self, terms: Terms, step: int) -> Float[Tensor, " B"]:
        """Returns the loss per image, (B,); in training, it then updates lambda."""
        constraint = terms.mean_recon - self.target
        loss = terms.kl + self.log_multiplier.exp() * constraint
        if self.training:
            with torch.no_grad():
                images = constraint.new_tensor(len(constraint))
                total, count = summed_over_processes(torch.stack([constraint.sum(), images]))
                self.average.lerp_(
                    (total / count / self.target).clamp(-1, 1).to(self.average.dtype),
                    1 - self.smoothing,
                )
                self.log_multiplier.add_(self.rate * self.average).clamp_(-10, 10)
        return loss
