"""What a trained model is worth: log p(x) by importance sampling, what its codes hold, how its pictures look.

Shapes: K samples, B images, L latent dimensions. Every image has noise of its own, so that no value depends on how the
images are batched or the samples are chunked.
"""

import functools
import logging
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from vae_lightning import codes, graphs, quality, rng
from vae_lightning.data import ImageData
from vae_lightning.distributions import DiagonalNormal, FullNormal
from vae_lightning.module import EVALUATION_SEED, VAE

log = logging.getLogger(__name__)

BATCH = 100  # images that are evaluated at once
BLOCK = 500  # samples that share a stream of an image
ROWS = 2_500  # images times samples that are decoded at once: what fits into a cache is twice as fast
ACTIVE = 0.01  # Burda et al. 2016, https://arxiv.org/abs/1509.00519


class LogWeights(nn.Module):
    """log w = log p(x|z) + log p(z) - log q(z|x) of posterior samples z, up to the likelihood's constant."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, x: Tensor, noise: Tensor, *condition: Tensor) -> tuple[Tensor]:
        """x (B, C, H, W), noise eps (K, B, L) and labels (B,) -> (K, B), alone in a tuple."""
        terms = self.vae(x, noise, *condition)
        return (terms.log_p - terms.log_q - terms.recon,)


def compiled(module: VAE, x: Tensor, condition: Sequence[Tensor]) -> graphs.Graph | None:
    """``LogWeights`` as one graph, for BATCH images and ROWS in all; None, and why in the log, where it has none."""
    weights = LogWeights(module)
    held = {name: value.detach() for name, value in [*weights.named_parameters(), *weights.named_buffers()]}

    def make(other: VAE) -> Callable[..., tuple[Tensor]]:
        def function(*tensors: Tensor) -> tuple[Tensor]:
            values = dict(zip(held, tensors, strict=False))
            return torch.func.functional_call(LogWeights(other), values, tensors[len(held) :])

        return function

    inputs = [*held.values(), x, x.new_zeros(ROWS // BATCH, BATCH, module.latent_dim), *condition]
    try:
        with torch.no_grad():
            graph = graphs.build(make, module, inputs)
    except graphs.Refused as error:
        log.warning("compile: the log-likelihood is not compiled: %s", error)
        return None
    return functools.partial(graph, *held.values())


def log_likelihood(
    module: VAE,
    x: Tensor,
    index: Tensor,
    samples: int,
    condition: Sequence[Tensor] = (),
    rows: int = ROWS,
    done: Callable[[int], None] = lambda _: None,
    graph: graphs.Graph | None = None,
) -> Tensor:
    """log p(x) of images x (B, C, H, W), normalised, by importance sampling from q(z|x): (B,), float64.

    log 1/K sum_k p(x|z_k) p(z_k) / q(z_k|x), K = ``samples``: a lower bound in expectation, which rises to log p(x)
    with K. Burda et al. 2016, https://arxiv.org/abs/1509.00519. ``index`` (B,) names the noise of each image, ``rows``
    bounds the memory, ``done`` is told how many samples of the batch are finished. ``graph``, what ``compiled`` gives,
    is taken where the numbers of images and samples are those that it is made for.
    """
    with torch.no_grad():
        posterior, prior = module.encoder(x, *condition), module.prior(module.encoder)
        normalizer = module.decoder(posterior.mean[None], *condition).log_normalizer
        total = torch.full((len(x),), -torch.inf, dtype=torch.float64)
        at_once = max(1, rows // len(x))
        for block in range(-(-samples // BLOCK)):
            noise = image_noise(index, min(BLOCK, samples - block * BLOCK), module.latent_dim, block).to(x)
            for eps in noise.split(at_once):
                if graph is not None and eps.shape[:2] == (ROWS // BATCH, BATCH):
                    (log_weights,) = graph(x, eps, *condition)
                else:
                    z = posterior.rsample(eps)
                    recon = module.decoder(z, *condition).recon(x)
                    log_weights = prior.log_prob(z) - posterior.log_prob(z) - recon
                total = torch.logaddexp(total, (log_weights.double().cpu() - normalizer).logsumexp(0))
                done(len(eps))
        return total - torch.tensor(samples, dtype=torch.float64).log()


def batches(data: ImageData, split: str, size: int = BATCH) -> Iterator[tuple[Tensor, Tensor, tuple[Tensor, ...]]]:
    """Positions (B,), images (B, C, H, W) in [0, 1] and what a conditional model is told, of a split."""
    images = data.images[split]
    for index in torch.arange(len(images), device=images.device).split(size):
        yield index, *data.inputs(split, index)


def log_likelihoods(
    module: VAE, data: ImageData, samples: int, done: Callable[[int], None], compiles: bool = False
) -> Tensor:
    """log p(x) of all test images, (N,), float64; ``done`` is told how many samples were drawn since the last call."""
    values, graph = [], None
    for index, x, condition in batches(data, "test"):
        if compiles and not values and len(index) == BATCH:
            graph = compiled(module, x, condition)
        told = functools.partial(lambda size, count: done(size * count), len(index))
        values.append(log_likelihood(module, x, index, samples, condition, done=told, graph=graph))
    return torch.cat(values)


def codes_of(module: VAE, data: ImageData) -> dict[str, float | int]:
    """Active units, information and marginal KL in nats, and how well a reader of posterior means gets the label.

    The information of a flow posterior would take latent_dim passes for each pair of images: it is left out.
    """
    with torch.no_grad():
        posteriors = [module.encoder(x, *condition) for _, x, condition in batches(data, "test", 1000)]
        means = torch.cat([posterior.mean for posterior in posteriors])
        train = torch.cat([module.encoder(x, *condition).mean for _, x, condition in batches(data, "train", 1000)])
        found: dict[str, float | int] = {"active_units": active_units(means)}
        if isinstance(posteriors[0], DiagonalNormal | FullNormal):
            posterior = type(posteriors[0])(*(torch.cat(parts) for parts in zip(*map(fields, posteriors), strict=True)))
            noise = rng.normal((1, *means.shape), "cpu", EVALUATION_SEED, "surgery").to(means)
            parts = codes.surgery(posterior, module.prior(module.encoder), posterior.rsample(noise)[0])
            found |= {"mutual_information": parts.information, "marginal_kl": parts.marginal_kl}
            found["log_n"] = math.log(len(means))  # the mutual information cannot be more
    known = (train.cpu(), data.labels["train"].cpu(), means.cpu(), data.labels["test"].cpu())
    found["linear_probe_accuracy"] = codes.linear_probe(*known)
    found["nearest_neighbours_accuracy"] = codes.nearest_neighbours(*known)
    return found


def fields(posterior: DiagonalNormal | FullNormal) -> tuple[Tensor, ...]:
    """The parameters in the order of the constructor."""
    return tuple(vars(posterior).values())


def pictures_of(module: VAE, data: ImageData) -> dict[str, float]:
    """Error of reconstructions from posterior means, and likeness of as many samples as there are test images.

    Samples are means of p(x|z), or pixels drawn with that probability where the data are binarised.
    """
    labels, device = data.labels["test"], data.images["test"].device
    generator = rng.generator(device, EVALUATION_SEED, "quality")
    with torch.no_grad():
        z = module.prior(module.encoder).sample(len(labels), generator)
        decoded, samples, normalizer = [], [], 0.0
        for index, x, condition in batches(data, "test", 1000):
            likelihood = module.decoder(module.encoder(x, *condition).mean[None], *condition)
            decoded.append(likelihood.mean[0])
            normalizer = float(likelihood.log_normalizer)
            mean = module.decoder(z[index][None], *condition).mean[0].clamp(0, 1)
            samples.append(mean if data.binarization == "none" else torch.bernoulli(mean, generator=generator))
    reader = quality.classifier(data, device)
    test, _ = data.inputs("test", slice(None))
    real, drawn = quality.features_of(reader, test), quality.features_of(reader, torch.cat(samples))
    likeness = quality.overlap(real, drawn)
    return {
        "log_normalizer": normalizer,
        **quality.reconstruction_error(test, torch.cat(decoded)),
        "frechet_distance": quality.frechet_distance(real, drawn),
        "precision": likeness.precision,
        "recall": likeness.recall,
        "classifier_accuracy": quality.accuracy(reader, data.images["test"], labels),
    }


def image_noise(index: Tensor, samples: int, latent_dim: int, block: int) -> Tensor:
    """eps (samples, B, L) of the images: a stream for each image and block of samples."""
    shape = (samples, latent_dim)
    streams = [rng.normal(shape, "cpu", EVALUATION_SEED, "nll", int(image), block) for image in index]
    return torch.stack(streams, dim=1)


def active_units(means: Tensor) -> int:
    """Number of latent dimensions with Var_x(E_q[z]) > 0.01, from posterior means (N, L)."""
    return int((means.double().var(0) > ACTIVE).sum())
