"""The test images as a model encodes them. Shapes: K samples, N images, L latent dimensions, C H W of an image."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from vae_lightning.data import ImageData
from vae_lightning.distributions import DiagonalNormal, FullNormal, StandardNormal, kl_to_standard_normal
from vae_lightning.evaluation import BATCH, image_noise
from vae_lightning.module import VAE

SAMPLES = 32  # of each posterior: recon's standard error is then about a sixth of its spread over z


class Encoded(NamedTuple):
    """The first N test images; recon and kl in nats per image."""

    images: Tensor  # uint8 (N, C, H, W)
    labels: Tensor  # (N,)
    mean: Tensor  # of q(z|x), (N, L)
    std: Tensor  # of its marginals, (N, L)
    recon: Tensor  # mean over SAMPLES posterior samples, (N,)
    kl: Tensor  # in closed form, or the mean over the same samples, (N,)
    kl_is_exact: bool
    information: Tensor  # what each dimension tells of x, in nats, (L,)


def encode(module: VAE, data: ImageData, count: int, done: Callable[[int], None] = lambda _: None) -> Encoded:
    """The first ``count`` test images through the encoder and back; ``done`` is told how many are finished."""
    images, labels = data.images["test"][:count], data.labels["test"][:count]
    parts: list[tuple[Tensor, ...]] = []
    with torch.no_grad():
        for index in torch.arange(len(images)).split(BATCH):
            x, condition = data.inputs("test", index)
            terms = module(x, image_noise(index, SAMPLES, module.latent_dim, block=0), *condition)
            marginals = isinstance(terms.posterior, DiagonalNormal | FullNormal)
            std = terms.posterior.marginals().std if marginals else terms.z.std(0)
            parts.append((terms.posterior.mean, std, terms.recon.mean(0), terms.kl))
            done(len(index))
        mean, std, recon, kl = (torch.cat(values) for values in zip(*parts, strict=True))
        exact = module.kl_is_exact(x, *condition)
    standard = marginals and isinstance(terms.prior, StandardNormal)
    return Encoded(images, labels, mean, std, recon, kl, exact, information(mean, std, standard))


def information(mean: Tensor, std: Tensor, standard: bool) -> Tensor:
    """What each latent dimension tells of x in nats, (L,), from the marginals' mean and std (N, L).

    Under a ``standard`` normal prior the mean KL of the marginals to it; else that of a Gaussian channel of the same
    variances, 1/2 log(1 + Var(mean) / E[std^2]), as a dimension that tells nothing may then be far from N(0, 1).
    """
    if standard:
        return kl_to_standard_normal(mean.unsqueeze(-1), std.unsqueeze(-1)).mean(0)
    return 0.5 * torch.log1p(mean.var(0, correction=0) / std.square().mean(0))
