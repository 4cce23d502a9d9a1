"""Priors p(z): modules whose forward takes the encoder and returns a distribution over latent vectors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vae_lightning.distributions.normal import DiagonalNormal, FullNormal, StandardNormal
from vae_lightning.distributions.posterior import positive
from vae_lightning.part import Part


class StandardNormalPrior(nn.Module):
    """p(z) = N(0, I), the seed's prior."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.distribution = StandardNormal(latent_dim)

    def forward(self, encoder: nn.Module) -> StandardNormal:
        """The prior: it has no parameters."""
        return self.distribution


@dataclass(frozen=True)
class Mixture:
    """p(z) = sum_m w_m N_m(z), the components being the M members of a batch of normals."""

    log_weights: Tensor  # log w, (M,), of positive weights that sum to one
    components: DiagonalNormal | FullNormal

    def log_prob(self, z: Tensor) -> Tensor:
        """log sum_m exp(log w_m + log N_m(z)) for z (K, B, L) in nats: (K, B)."""
        return torch.logsumexp(self.log_weights + self.components.cross_log_prob(z), dim=-1)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draws on the generator's device, no gradient: (count, L)."""
        with torch.no_grad():
            index = torch.multinomial(self.log_weights.exp(), count, replacement=True, generator=generator)
            shape = (1, count, self.components.mean.shape[-1])
            noise = torch.randn(shape, generator=generator, device=generator.device)
            return self.components.take(index).rsample(noise)[0]


class MixturePrior(nn.Module):
    """p(z) = sum_m softmax(a)_m N(z; mean_m, diag(std_m^2)), all learned.

    Args:
        latent_dim: L.
        components: M; at the start their means are draws from N(0, I), their std is one.
    """

    def __init__(self, latent_dim: int, components: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(components))
        self.mean = nn.Parameter(torch.randn(components, latent_dim))
        self.raw_std = nn.Parameter(torch.full((components, latent_dim), math.log(math.e - 1)))  # softplus: 1

    def forward(self, encoder: nn.Module) -> Mixture:
        """The mixture as it is now."""
        return Mixture(self.logits.log_softmax(0), DiagonalNormal(self.mean, positive(self.raw_std)))


class VampPrior(Part):
    """p(z) = 1/M sum_m q(z|u_m), the posteriors of M learned pseudo-inputs u_m, pixels in (0, 1).

    Tomczak & Welling 2018, https://arxiv.org/abs/1705.07120. The pseudo-inputs start as training images.

    Args:
        pseudo_inputs: M.
        image_shape: C, H, W.
    """

    def __init__(self, pseudo_inputs: int, image_shape: Sequence[int]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.randn(pseudo_inputs, *image_shape))

    def check(self, encoder: nn.Module, prior: nn.Module, classes: int) -> None:
        """Needs a posterior of normals, which can tell the density of one image's z under another's."""
        if classes:
            raise ValueError("prior=vamp: must be with model.conditional=false, as pseudo-inputs have no label")
        if getattr(encoder, "sequential", False):
            raise ValueError(
                "prior=vamp: must be with posterior=diagonal_normal or full_normal; under a flow the density of z given"
                " another image takes latent_dim passes in sequence for each pseudo-input"
            )

    def start_from(self, images: Tensor, binarized: bool) -> None:
        """Pseudo-inputs are training images, evenly spaced among them; black is 0.02, white 0.98."""
        index = torch.linspace(0, len(images) - 1, len(self.logits)).long()
        with torch.no_grad():
            self.logits.copy_((images[index] / 255).clamp(0.02, 0.98).logit())

    def forward(self, encoder: nn.Module) -> Mixture:
        """The mixture as encoder and pseudo-inputs are now."""
        count = len(self.logits)
        return Mixture(self.logits.new_full((count,), -math.log(count)), encoder(self.logits.sigmoid()))
