"""The terms of each image: -log p(x), the negative ELBO, recon and KL.

Shapes: K samples, N images.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from vae_lightning.evaluation.batches import BATCH
from vae_lightning.evaluation.likelihood import decoded_at_once, noise_chunks
from vae_lightning.networks import UNCONDITIONAL, Condition
from vae_lightning.training.module import VAE
from vae_lightning.training.summary import log_normalizer


class Scores(NamedTuple):
    """Terms of N images in nats: ``nll``, ``recon``, ``kl`` and ``neg_elbo``, (N,) each, float64.

    ``nll`` is -log p(x) with the likelihood's constant; None if p(x|z) is not normalized. The
    others omit the constant, and ``neg_elbo`` is recon + kl.
    """

    nll: Tensor | None  # -log p(x), with the likelihood's constant; None if it is not defined
    recon: Tensor  # E_q[-log p(x|z)], without the constant
    kl: Tensor  # KL(q(z|x) || p(z))

    @property
    def neg_elbo(self) -> Tensor:
        """The negative ELBO, recon + kl: (N,)."""
        return self.recon + self.kl


@torch.no_grad()
def image_scores(
    module: VAE,
    x: Tensor,
    samples: int,
    condition: Condition = UNCONDITIONAL,
    done: Callable[[int], object] = lambda _: None,
) -> Scores:
    """Computes all terms of images x (N, C, H, W) from the same K = samples draws of q(z|x).

    nll is estimated as in likelihood.log_likelihood, with the same noise, which depends only on the
    position of the image in x. Therefore nll <= neg_elbo + log_normalizer holds exactly if the KL
    is the mean over the draws, and up to its sampling error if it has a closed form.

    Args:
        module: the model.
        x: the images.
        samples: the number of samples K.
        condition: the labels of a conditional model.
        done: is called after each chunk with the number of its samples, summed over its images.
    """
    log_weight = torch.full((len(x),), -torch.inf, dtype=torch.float64)
    recon, kl = torch.zeros(2, len(x), dtype=torch.float64)
    for index in torch.arange(len(x)).split(BATCH):
        batch, labels = x[index], condition.take(index)
        for noise in noise_chunks(index, samples, module.latent_dim, decoded_at_once(x)):
            terms = module(batch, noise.to(x), labels)
            weights = (terms.log_p - terms.log_q - terms.recon).double().cpu().logsumexp(0)
            log_weight[index] = torch.logaddexp(log_weight[index], weights)
            recon[index] += terms.recon.double().cpu().sum(0)
            kl[index] += terms.kl.double().cpu() * len(noise)
            done(noise.shape[0] * noise.shape[1])
    mean_weight = log_weight - math.log(samples)
    nll = log_normalizer(module) - mean_weight if module.decoder.is_normalized else None
    return Scores(nll, recon / samples, kl / samples)
