"""Objectives that ask for independent latent dimensions: DIP-VAE and FactorVAE.

Shapes: K samples, B images, L latent dimensions.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vae_lightning import rng
from vae_lightning.checks.errors import ConfigError
from vae_lightning.checks.ranges import Choice, Integers, Number, Option
from vae_lightning.distributions import DiagonalNormal, FullNormal
from vae_lightning.distributions.component import require_marginals
from vae_lightning.distributions.normal import float64_if_supported, full_precision
from vae_lightning.networks import dense
from vae_lightning.networks.dense import LatentDim, without_gradient
from vae_lightning.objectives.annealing import Annealing
from vae_lightning.objectives.bounds import elbo
from vae_lightning.objectives.terms import Beta, NumSamples, Objective, Terms

KINDS = ("I", "II")


def covariance(posterior: DiagonalNormal | FullNormal, kind: str) -> Float[Tensor, "L L"]:
    """Returns the covariance that DIP-VAE regularizes, over the B images of a batch: (L, L).

        I: Cov[mean(x)]    II: Cov[z] = Cov[mean(x)] + E[Cov[z|x]], z ~ q(z|x)

    Kumar et al. 2018, https://arxiv.org/abs/1711.00848.
    """
    mean = float64_if_supported(posterior.mean)  # autocast computes no float64 product in bfloat16
    centered = mean - mean.mean(0)
    found = centered.T @ centered / len(centered)
    if kind == "II":
        found = found + mean_covariance(posterior)
    return found.to(posterior.mean)


def mean_covariance(posterior: DiagonalNormal | FullNormal) -> Float[Tensor, "L L"]:
    """Returns the mean over the images of the covariance of z given x, E[Cov[z|x]]: (L, L)."""
    if isinstance(posterior, FullNormal):
        scale_tril = float64_if_supported(posterior.scale_tril)
        return (scale_tril @ scale_tril.mT).mean(0)
    return float64_if_supported(posterior.std).square().mean(0).diag()


class DIP(Objective):
    """The negative ELBO with a penalty that pulls a covariance matrix towards the identity.

        loss = recon + beta KL + off_diagonal sum_{i != j} Cov_ij^2 + diagonal sum_i (Cov_ii - 1)^2

    Kumar et al. 2018, https://arxiv.org/abs/1711.00848.

    Args:
        kind: ``I``, the covariance of the posterior means, or ``II``, that of z.
        off_diagonal: weight of the squared covariances.
        diagonal: weight of the squared differences of the variances from 1.
        beta, num_samples, annealing: see Objective.
    """

    def __init__(
        self,
        kind: Annotated[str, Option("I: covariance of the means; II: of z", Choice(KINDS))],
        off_diagonal: Annotated[
            float, Option("weight of the squared covariances", Number(least=0))
        ],
        diagonal: Annotated[
            float, Option("weight of the squared differences of the variances from 1", Number(0))
        ],
        beta: Beta = 1.0,
        num_samples: NumSamples = 1,
        annealing: Annealing | None = None,
    ) -> None:
        super().__init__(beta, num_samples, annealing)
        if kind not in KINDS:
            raise ConfigError(f"objective.kind={kind}: must be I or II")
        self.kind, self.off_diagonal, self.diagonal = kind, off_diagonal, diagonal

    def check(self, encoder: nn.Module, prior: nn.Module, classes: int) -> None:
        """Raises ConfigError for a posterior whose covariance has no closed form."""
        reason = "the covariance of other posteriors has no closed form"
        require_marginals(encoder, "objective=dip", reason)

    def forward(self, terms: Terms, step: int) -> Float[Tensor, " B"]:
        """Returns the loss per image, (B,), at this optimizer step."""
        found = covariance(terms.posterior, self.kind)  # pyright: ignore[reportArgumentType] - DIP.check refuses a Flow
        variances = found.diagonal()
        squares = found.square().sum() - variances.square().sum()
        penalty = self.off_diagonal * squares + self.diagonal * (variances - 1).square().sum()
        return elbo(terms, self.beta_at(step)) + penalty


class Factor(Objective):
    """FactorVAE: loss = recon + KL + gamma TC, with TC estimated by a discriminator.

    The discriminator D distinguishes samples z of q(z) from samples whose dimensions are permuted
    within the batch, each on its own, so that they come from prod_l q(z_l). Its logit estimates
    log q(z) - sum_l log q(z_l), whose mean is the total correlation. The optimizer of the model
    also trains D: the gradient of its cross-entropy reaches D alone, and the gradient of TC reaches
    everything but D. Kim & Mnih 2018, https://arxiv.org/abs/1802.05983. The paper trains D with an
    optimizer of its own, on samples of another batch.

    Args:
        gamma: weight of the total correlation.
        latent_dim: L.
        hidden_dims: widths of the hidden layers of D; six of 1,000 in the paper.
        num_samples, annealing: see Objective; the schedule multiplies gamma.
    """

    def __init__(
        self,
        gamma: Annotated[float, Option("weight of the total correlation", Number(least=0))],
        latent_dim: LatentDim,
        hidden_dims: Annotated[
            list[int], Option("widths of the hidden layers of the discriminator", Integers(1))
        ],
        num_samples: NumSamples = 1,
        annealing: Annealing | None = None,
    ) -> None:
        super().__init__(num_samples=num_samples, annealing=annealing)
        self.gamma = gamma
        self.discriminator = dense([latent_dim, *hidden_dims, 1], "relu")

    def weights(self, step: int) -> dict[str, float]:
        """Returns the weight of the total correlation at this optimizer step."""
        return {"gamma": self.gamma * self.annealing(step)}

    def total_correlation(self, z: Float[Tensor, "n L"]) -> Float[Tensor, ""]:
        """Returns the estimate of the total correlation from samples z (n, L), ()."""
        return full_precision(without_gradient(self.discriminator)(z)).mean()

    def discriminator_loss(self, z: Float[Tensor, "n L"], step: int) -> Float[Tensor, ""]:
        """Returns the cross-entropy of D, in nats per sample, for samples z (n, L) of q(z): ()."""
        generator = rng.generator(z.device, 0, "permutation", step)
        order = torch.rand(z.shape, generator=generator, device=z.device).argsort(0)
        real, permuted = (
            full_precision(self.discriminator(samples)) for samples in (z, z.gather(0, order))
        )
        return 0.5 * (F.softplus(-real) + F.softplus(permuted)).mean()

    def forward(self, terms: Terms, step: int) -> Float[Tensor, " B"]:
        """Returns the loss per image, (B,), at this optimizer step."""
        z = terms.z.flatten(0, 1)
        loss = elbo(terms) + self.weights(step)["gamma"] * self.total_correlation(z)
        if not torch.is_grad_enabled():
            return loss
        own = self.discriminator_loss(z.detach(), step)
        return loss + (own - own.detach())  # adds its gradient and no value
