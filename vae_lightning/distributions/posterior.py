"""Posteriors q(z|x): modules that hold an encoder network and return a distribution over latent vectors."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae_lightning.distributions.normal import DiagonalNormal, full_precision

# Added to every standard deviation, so that log std stays finite when softplus underflows.
STD_FLOOR = 1e-6


class DiagonalNormalPosterior(nn.Module):
    """q(z|x) = N(mean(x), diag(std(x)^2)) with std = softplus(raw) + STD_FLOOR.

    Kingma & Welling 2014, https://arxiv.org/abs/1312.6114. Softplus grows linearly where exp would overflow.

    Args:
        network: called with the number of outputs, returns the encoder: x (B, C, H, W) -> (B, outputs).
        latent_dim: L.
        shared_std: std is one learned vector instead of a function of x, as in probabilistic PCA.
    """

    def __init__(self, network: Callable[[int], nn.Module], latent_dim: int, shared_std: bool = False) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.network = network(latent_dim if shared_std else 2 * latent_dim)
        self.raw_std = nn.Parameter(torch.zeros(latent_dim)) if shared_std else None

    def forward(self, x: Tensor) -> DiagonalNormal:
        """x (B, C, H, W) -> q(z|x) with mean and std (B, L)."""
        outputs = full_precision(self.network(x))
        if self.raw_std is None:
            mean, raw_std = outputs.chunk(2, dim=-1)
        else:
            mean, raw_std = outputs, self.raw_std.expand_as(outputs)
        return DiagonalNormal(mean, F.softplus(raw_std) + STD_FLOOR)
