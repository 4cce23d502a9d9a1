"""Posteriors q(z|x): modules that hold an encoder network and return a distribution over latent vectors.

``network`` is called with the number of outputs and returns the encoder: x (B, C, H, W) -> (B, outputs). What follows x
in a call, the labels of a conditional model, goes on to the network.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae_lightning.distributions.normal import DiagonalNormal, FullNormal, full_precision

# Added to every standard deviation, so that log std stays finite when softplus underflows.
STD_FLOOR = 1e-6


def positive(raw: Tensor) -> Tensor:
    """softplus(raw) + STD_FLOOR: grows linearly where exp would overflow."""
    return F.softplus(raw) + STD_FLOOR


class DiagonalNormalPosterior(nn.Module):
    """q(z|x) = N(mean(x), diag(std(x)^2)) with std = softplus(raw) + STD_FLOOR.

    Kingma & Welling 2014, https://arxiv.org/abs/1312.6114.

    Args:
        network: see above.
        latent_dim: L.
        shared_std: std is one learned vector instead of a function of x, as in probabilistic PCA.
    """

    def __init__(self, network: Callable[[int], nn.Module], latent_dim: int, shared_std: bool = False) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.network = network(latent_dim if shared_std else 2 * latent_dim)
        self.raw_std = nn.Parameter(torch.zeros(latent_dim)) if shared_std else None

    def forward(self, x: Tensor, *condition: Tensor) -> DiagonalNormal:
        """x (B, C, H, W) -> q(z|x) with mean and std (B, L)."""
        outputs = full_precision(self.network(x, *condition))
        if self.raw_std is None:
            mean, raw_std = outputs.chunk(2, dim=-1)
        else:
            mean, raw_std = outputs, self.raw_std.expand_as(outputs)
        return DiagonalNormal(mean, positive(raw_std))


class FullNormalPosterior(nn.Module):
    """q(z|x) = N(mean(x), T(x) T(x)') with T lower triangular, its diagonal softplus(raw) + STD_FLOOR.

    The posterior of a linear-Gaussian model is one (Tipping & Bishop 1999, https://doi.org/10.1111/1467-9868.00196);
    Kingma & Welling 2019, section 2.5.1, https://arxiv.org/abs/1906.02691.

    Args:
        network: see above.
        latent_dim: L.
    """

    def __init__(self, network: Callable[[int], nn.Module], latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.network = network(2 * latent_dim + latent_dim * (latent_dim - 1) // 2)

    def forward(self, x: Tensor, *condition: Tensor) -> FullNormal:
        """x (B, C, H, W) -> q(z|x) with mean (B, L) and scale_tril (B, L, L)."""
        size = self.latent_dim
        outputs = full_precision(self.network(x, *condition))
        mean, raw_std, lower = outputs.split([size, size, outputs.shape[-1] - 2 * size], dim=-1)
        row, column = torch.tril_indices(size, size, -1, device=x.device)
        scale_tril = torch.diag_embed(positive(raw_std))
        return FullNormal(
            mean, scale_tril.index_put((torch.arange(len(x), device=x.device)[:, None], row, column), lower)
        )
