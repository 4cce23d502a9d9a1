"""What a trained model is worth: log p(x) by importance sampling, active units. Nats per image.

Shapes: K samples, B images, L latent dimensions. Every image has noise of its own, so that no value depends on how the
images are batched or the samples are chunked.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vae_lightning import rng
from vae_lightning.module import EVALUATION_SEED, VAE

BLOCK = 500  # samples that share a stream of an image
ROWS = 20_000  # images times samples that are decoded at once: 60 MB for 784 pixels
ACTIVE = 0.01  # Burda et al. 2016, https://arxiv.org/abs/1509.00519


def log_likelihood(
    module: VAE,
    x: Tensor,
    index: Tensor,
    samples: int,
    condition: Sequence[Tensor] = (),
    rows: int = ROWS,
    done: Callable[[int], None] = lambda _: None,
) -> Tensor:
    """log p(x) of images x (B, C, H, W), normalised, by importance sampling from q(z|x): (B,), float64.

    log 1/K sum_k p(x|z_k) p(z_k) / q(z_k|x), K = ``samples``: a lower bound in expectation, which rises to log p(x)
    with K. Burda et al. 2016, https://arxiv.org/abs/1509.00519. ``index`` (B,) names the noise of each image, ``rows``
    bounds the memory, ``done`` is told how many samples of the batch are finished.
    """
    with torch.no_grad():
        posterior, prior = module.encoder(x, *condition), module.prior(module.encoder)
        total = torch.full((len(x),), -torch.inf, dtype=torch.float64)
        at_once = max(1, rows // len(x))
        for block in range(-(-samples // BLOCK)):
            noise = image_noise(index, min(BLOCK, samples - block * BLOCK), module.latent_dim, block).to(x)
            for eps in noise.split(at_once):
                z = posterior.rsample(eps)
                likelihood = module.decoder(z, *condition)
                log_weights = prior.log_prob(z) - posterior.log_prob(z) - likelihood.recon(x)
                log_weights = log_weights.double().cpu() - likelihood.log_normalizer
                total = torch.logaddexp(total, log_weights.logsumexp(0))
                done(len(eps))
        return total - torch.tensor(samples, dtype=torch.float64).log()


def image_noise(index: Tensor, samples: int, latent_dim: int, block: int) -> Tensor:
    """eps (samples, B, L) of the images: a stream for each image and block of samples."""
    shape = (samples, latent_dim)
    streams = [rng.normal(shape, "cpu", EVALUATION_SEED, "nll", int(image), block) for image in index]
    return torch.stack(streams, dim=1)


def active_units(means: Tensor) -> int:
    """Number of latent dimensions with Var_x(E_q[z]) > 0.01, from posterior means (N, L)."""
    return int((means.double().var(0) > ACTIVE).sum())
