"""Priors p(z): modules whose forward takes the encoder and returns a distribution.

Shapes: K samples, B images, L latent dimensions, C H W of an image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from vae_lightning.checks.errors import ConfigError
from vae_lightning.checks.ranges import Integer, Option
from vae_lightning.distributions.component import Component, require_marginals
from vae_lightning.distributions.normal import DiagonalNormal, FullNormal, StandardNormal
from vae_lightning.distributions.posterior import positive
from vae_lightning.networks.dense import LatentDim


class StandardNormalPrior(nn.Module):
    """p(z) = N(0, I), the default."""

    def __init__(self, latent_dim: LatentDim) -> None:
        super().__init__()
        self.distribution = StandardNormal(latent_dim)

    def forward(self, encoder: nn.Module) -> StandardNormal:
        """Returns the prior, which has no parameters."""
        return self.distribution


@dataclass(frozen=True)
class Mixture:
    """p(z) = sum_m w_m N_m(z), with a batch of M normal distributions as components."""

    log_weights: Float[Tensor, " M"]  # log w, (M,); the weights w are positive and sum to one
    components: DiagonalNormal | FullNormal

    def log_prob(self, z: Float[Tensor, "*shape L"]) -> Float[Tensor, "*shape"]:
        """Returns log sum_m exp(log w_m + log N_m(z)) for z (K, B, L) in nats: (K, B)."""
        return torch.logsumexp(self.log_weights + self.components.cross_log_prob(z), dim=-1)

    def sample(self, count: int, generator: torch.Generator) -> Float[Tensor, "{count} L"]:
        """Returns samples (count, L) on the generator's device, without gradient."""
        with torch.no_grad():
            index = torch.multinomial(
                self.log_weights.exp(), count, replacement=True, generator=generator
            )
            shape = (1, count, self.components.mean.shape[-1])
            noise = torch.randn(shape, generator=generator, device=generator.device)
            return self.components.take(index).transform(noise)[0]


class MixturePrior(nn.Module):
    """p(z) = sum_m softmax(a)_m N(z; mean_m, diag(std_m^2)) with learned a, mean and std.

    Args:
        latent_dim: L.
        components: M. The means are initialized with draws from N(0, I), the stds with one.
    """

    def __init__(
        self,
        latent_dim: LatentDim,
        components: Annotated[int, Option("components of the mixture", Integer(1))],
    ) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(components))
        self.mean = nn.Parameter(torch.randn(components, latent_dim))
        # softplus(log(e - 1)) = 1
        self.raw_std = nn.Parameter(torch.full((components, latent_dim), math.log(math.e - 1)))

    def forward(self, encoder: nn.Module) -> Mixture:
        """Returns the mixture for the current parameters."""
        return Mixture(
            self.logits.log_softmax(0), DiagonalNormal(self.mean, positive(self.raw_std))
        )


class VampPrior(Component):
    """p(z) = 1/M sum_m q(z|u_m), the mixture of the posteriors of M learned pseudo-inputs u_m.

    The pixels of the pseudo-inputs are in (0, 1). They are initialized with training images.
    Tomczak & Welling 2018, https://arxiv.org/abs/1705.07120.

    Args:
        pseudo_inputs: M.
        image_shape: C, H, W.
    """

    def __init__(
        self,
        pseudo_inputs: Annotated[int, Option("number of pseudo-inputs", Integer(1))],
        image_shape: Sequence[int],
    ) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.randn(pseudo_inputs, *image_shape))

    def check(self, encoder: nn.Module, prior: nn.Module, classes: int) -> None:
        """Raises ConfigError for a conditional model, or a posterior without closed marginals."""
        if classes:
            raise ConfigError(
                "prior=vamp: requires model.conditional=false, because pseudo-inputs have no label"
            )
        reason = "the density of other posteriors takes passes through a network for each"
        require_marginals(encoder, "prior=vamp", f"{reason} pseudo-input")

    def start_from(self, images: UInt8[Tensor, "N C H W"], binarized: bool) -> None:
        """Initializes the pseudo-inputs with training images at evenly spaced positions.

        Pixels are clipped to [0.02, 0.98], because the pseudo-inputs are parameterized by logits.
        """
        index = torch.linspace(0, len(images) - 1, len(self.logits)).long()
        with torch.no_grad():
            self.logits.copy_((images[index] / 255).clamp(0.02, 0.98).logit())

    def forward(self, encoder: nn.Module) -> Mixture:
        """Returns the mixture for the current encoder and pseudo-inputs."""
        count = len(self.logits)
        return Mixture(
            self.logits.new_full((count,), -math.log(count)), encoder(self.logits.sigmoid())
        )
