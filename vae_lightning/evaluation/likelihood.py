"""Estimates log p(x) by importance sampling.

Every image has its own noise, so no value depends on how images are batched or samples are chunked.
Shapes: K samples, B images, L latent dimensions.
"""

import functools
import logging
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from vae_lightning import rng
from vae_lightning.compile import graphs
from vae_lightning.data.images import ImageData
from vae_lightning.evaluation.batches import BATCH, batches
from vae_lightning.networks import UNCONDITIONAL, Condition
from vae_lightning.training.module import EVALUATION_SEED, VAE

log = logging.getLogger(__name__)

SAMPLES_PER_STREAM = 500  # each image draws this many samples from one random stream
# Images times samples that are decoded at once. Decoding is twice as fast if they fit into a cache.
DECODED_AT_ONCE, DECODED_PIXELS = 2_500, 784  # of images with so many values; fewer of larger ones


def decoded_at_once(x: Tensor) -> int:
    """Returns how many images times samples are decoded at once for images x (B, C, H, W)."""
    return max(BATCH, DECODED_AT_ONCE * DECODED_PIXELS // max(DECODED_PIXELS, x[0].numel()))


class LogWeights(nn.Module):
    """Log importance weights of posterior samples z, without the likelihood's constant.

    log w = log p(x|z) + log p(z) - log q(z|x).
    """

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(
        self, x: Tensor, noise: Tensor, condition: Condition = UNCONDITIONAL
    ) -> tuple[Tensor]:
        """Maps x (B, C, H, W), noise (K, B, L) and labels (B,) to a 1-tuple of log w (K, B)."""
        terms = self.vae(x, noise, condition)
        return (terms.log_p - terms.log_q - terms.recon,)


def compiled(module: VAE, x: Tensor, condition: Condition) -> graphs.Graph | None:
    """Returns ``LogWeights`` as one graph, for BATCH images and decoded_at_once // BATCH samples.

    Returns None and logs the reason if the module cannot be compiled.
    """
    weights = LogWeights(module)
    held = {
        name: value.detach()
        for name, value in [*weights.named_parameters(), *weights.named_buffers()]
    }

    def make(other: VAE) -> Callable[..., tuple[Tensor]]:
        def function(*tensors: Tensor) -> tuple[Tensor]:
            values = dict(zip(held, tensors, strict=False))
            x, noise, *labels = tensors[len(held) :]
            return torch.func.functional_call(
                LogWeights(other), values, (x, noise, Condition(*labels))
            )

        return function

    noise = x.new_zeros(decoded_at_once(x) // BATCH, BATCH, module.latent_dim)
    inputs = [*held.values(), x, noise, *condition.tensors()]
    try:
        with torch.no_grad():
            graph = graphs.build(make, module, inputs)
    except graphs.Refused as error:
        log.warning("compile: the estimate of log p(x) is not compiled, which is slower: %s", error)
        return None
    return functools.partial(graph, *held.values())


def log_likelihood(
    module: VAE,
    x: Tensor,
    index: Tensor,
    samples: int,
    condition: Condition = UNCONDITIONAL,
    rows: int | None = None,
    done: Callable[[int], object] = lambda _: None,
    graph: graphs.Graph | None = None,
) -> Tensor:
    """Estimates log p(x) of images x (B, C, H, W) in nats: (B,), float64.

        log 1/K sum_k p(x|z_k) p(z_k) / q(z_k|x), z_k ~ q(z|x), K = samples

    The estimate includes the likelihood's constant. Its expectation is a lower bound that converges
    to log p(x) as K grows. Burda et al. 2016, https://arxiv.org/abs/1509.00519.

    Args:
        module: the model.
        x: the images.
        index: positions of the images in the split (B,), which select their noise.
        samples: the number of samples K.
        condition: the labels of a conditional model.
        rows: bounds the memory: at most this many images times samples are decoded at once; None:
            ``decoded_at_once``.
        done: is called after each chunk with the number of its samples.
        graph: the result of ``compiled``; used for chunks with the shape that it was compiled for.
    """
    with torch.no_grad():
        posterior, prior = module.encoder(x, condition), module.prior(module.encoder)
        normalizer = module.decoder(posterior.mean[None], condition).log_normalizer
        total = torch.full((len(x),), -torch.inf, dtype=torch.float64)
        for noise in noise_chunks(index, samples, module.latent_dim, rows or decoded_at_once(x)):
            eps = noise.to(x)
            if graph is not None and eps.shape[:2] == (decoded_at_once(x) // BATCH, BATCH):
                (log_weights,) = graph(x, eps, *condition.tensors())
            else:
                z = posterior.transform(eps)
                recon = module.decoder(z, condition).recon(x)
                log_weights = prior.log_prob(z) - posterior.log_prob(z) - recon
            total = torch.logaddexp(total, (log_weights.double().cpu() - normalizer).logsumexp(0))
            done(len(eps))
        return total - torch.tensor(samples, dtype=torch.float64).log()


def log_likelihoods(
    module: VAE,
    data: ImageData,
    samples: int,
    done: Callable[[int], object],
    compiles: bool = False,
) -> Tensor:
    """Estimates log p(x) of all N test images in nats: (N,), float64.

    ``done`` is called after each chunk with the number of samples, summed over its images.
    ``compiles`` compiles the computation if possible.
    """
    values, graph = [], None
    for index, x, condition in batches(data, "test"):
        if compiles and not values and len(index) == BATCH:
            graph = compiled(module, x, condition)
        count_done = functools.partial(lambda size, count: done(size * count), len(index))
        values.append(
            log_likelihood(module, x, index, samples, condition, done=count_done, graph=graph)
        )
    return torch.cat(values)


def noise_chunks(index: Tensor, samples: int, latent_dim: int, rows: int) -> Iterator[Tensor]:
    """Yields the noise (k, B, L) of ``samples`` samples per image, in chunks of k <= rows / B."""
    for block in range(-(-samples // SAMPLES_PER_STREAM)):
        count = min(SAMPLES_PER_STREAM, samples - block * SAMPLES_PER_STREAM)
        yield from image_noise(index, count, latent_dim, block).split(max(1, rows // len(index)))


def image_noise(index: Tensor, samples: int, latent_dim: int, block: int) -> Tensor:
    """Returns noise eps (samples, B, L) of images with the positions index (B,).

    There is one random stream for each image and block of samples.
    """
    shape = (samples, latent_dim)
    streams = [
        rng.normal(shape, "cpu", EVALUATION_SEED, "nll", int(image), block) for image in index
    ]
    return torch.stack(streams, dim=1)
