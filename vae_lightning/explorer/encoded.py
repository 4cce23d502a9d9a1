"""Encodes the test images for the page.

Shapes: K samples, N images, L latent dimensions, C H W of an image.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from vae_lightning.data.images import ImageData
from vae_lightning.evaluation.batches import BATCH
from vae_lightning.evaluation.latents import information_per_dim, moments
from vae_lightning.evaluation.likelihood import image_noise
from vae_lightning.training.module import VAE

# Samples per posterior. The standard error of recon is about a sixth of its standard deviation
# over z.
SAMPLES = 32
DECODED_PIXELS = 15_000_000  # of a batch, in all samples; 60 MB in float32


class Encoded(NamedTuple):
    """The first N test images; recon and kl in nats per image."""

    images: Tensor  # uint8 (N, C, H, W)
    labels: Tensor  # (N,)
    mean: Tensor  # mean of q(z|x), (N, L)
    std: Tensor  # marginal standard deviations of q(z|x), (N, L)
    recon: Tensor  # mean over SAMPLES posterior samples, (N,)
    kl: Tensor  # closed form or mean over the same samples, (N,)
    kl_is_exact: bool
    information: Tensor  # information of each latent dimension about x, in nats, (L,)


def batch_size(pixels: int) -> int:
    """Images that are encoded and decoded at once; fewer if they have many pixels."""
    return max(1, min(BATCH, DECODED_PIXELS // (SAMPLES * pixels)))


def encode(
    module: VAE, data: ImageData, count: int, done: Callable[[int], object] = lambda _: None
) -> Encoded:
    """Encodes and decodes the first ``count`` test images.

    After each batch, ``done`` is called with the number of images in the batch.
    """
    images, labels = data.images["test"][:count], data.labels["test"][:count]
    parts: list[tuple[Tensor, ...]] = []
    with torch.no_grad():
        for index in torch.arange(len(images)).split(batch_size(data.pixels)):
            x, condition = data.inputs("test", index)
            terms = module(x, image_noise(index, SAMPLES, module.latent_dim, block=0), condition)
            parts.append((*moments(terms.posterior), terms.mean_recon, terms.kl))
            done(len(index))
        mean, std, recon, kl = (torch.cat(values) for values in zip(*parts, strict=True))
        exact = module.kl_is_exact(*data.inputs("test", slice(1)))
        x, condition = data.inputs("test", slice(count))
        information = information_per_dim(
            module.encoder(x, condition), module.prior(module.encoder)
        )
    return Encoded(images, labels, mean, std, recon, kl, exact, information)
