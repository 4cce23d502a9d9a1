"""Measures of the latents: active units, mutual information, and accuracy of simple classifiers.

Shapes: N images, L latent dimensions. Information is in nats per image.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vae_lightning import rng
from vae_lightning.data.images import ImageData
from vae_lightning.distributions import (
    DiagonalNormal,
    FullNormal,
    Posterior,
    Prior,
    StandardNormal,
    kl_to_standard_normal,
)
from vae_lightning.evaluation.batches import TrainingImages, batches, split_images
from vae_lightning.evaluation.needs import LeftOut, need_images
from vae_lightning.objectives.disentangling import covariance
from vae_lightning.training.module import EVALUATION_SEED, VAE

# samples per chunk; each is evaluated under all N posteriors, of which there are up to 10,000
CHUNK, POSTERIORS = 500, 10_000
NEIGHBORS = 5
STD_SAMPLES = 256  # draws that estimate the std of a flow posterior, with an error of about 4 %
# measures of the aggregate posterior, in nats
AGGREGATE = (
    *("mutual_information", "marginal_kl", "total_correlation"),
    *("gaussian_total_correlation", "log_n"),
)
ACTIVE_VARIANCE = 0.01  # Burda et al. 2016, https://arxiv.org/abs/1509.00519


class Surgery(NamedTuple):
    """The two parts of the mean KL term: mean KL = information + marginal_kl.

    Hoffman & Johnson 2016, http://approximateinference.org/2016/accepted/HoffmanJohnson2016.pdf.
    """

    information: float  # I(n; z), at most log N
    marginal_kl: float  # KL(q(z) || p(z)), q(z) = 1/N sum_n q(z|x_n)


def surgery(posterior: DiagonalNormal | FullNormal, prior: Prior, z: Tensor) -> Surgery:
    """Estimates I(n; z) and KL(q(z) || p(z)) from one sample z (N, L) of each of the N posteriors.

        I(n; z) = E[log q(z|x) - log q(z)], KL(q(z) || p(z)) = E[log q(z) - log p(z)]

    The density of the aggregate posterior q(z), the mixture of all N posteriors, is exact.
    Hoffman & Johnson 2016, http://approximateinference.org/2016/accepted/HoffmanJohnson2016.pdf
    """
    log_q = mixture_log_prob(posterior, z)
    own, log_p = posterior.log_prob(z[None])[0].double(), prior.log_prob(z[None])[0].double()
    return Surgery(float((own - log_q).mean()), float((log_q - log_p).mean()))


def total_correlation(posterior: DiagonalNormal | FullNormal, z: Tensor) -> float:
    """Estimates the total correlation of q(z) from one sample z (N, L) of each of N posteriors.

        TC = E_q(z)[log q(z) - sum_l log q(z_l)]

    The densities of the aggregate posterior q(z) = 1/N sum_n q(z|x_n) and of its marginals are
    exact. As an estimate for more than these N images, it is too large if the mutual information
    I(n; z) is near its bound log N: with L = 16, N = 10,000 and posteriors whose aggregate is
    N(0, I), where TC = 0, it is 10.1 nats for std = 0.3 and 27.5 nats for std = 0.1. Chen et al.
    2018, https://arxiv.org/abs/1802.04942.
    """
    marginals = posterior.marginals()
    joint = mixture_log_prob(posterior, z)
    for one in range(z.shape[1]):
        each = DiagonalNormal(marginals.mean[:, [one]], marginals.std[:, [one]])
        joint = joint - mixture_log_prob(each, z[:, [one]])
    return float(joint.mean())


def gaussian_total_correlation(posterior: DiagonalNormal | FullNormal) -> float:
    """Returns -1/2 log det Corr[z], z ~ q(z), from N posteriors.

    It is the total correlation of a normal distribution with the covariance of q(z). It sees linear
    dependence only, and hardly depends on N.
    """
    correlation = covariance(posterior, "II").double()
    scale = correlation.diag().rsqrt()
    return float(-0.5 * torch.logdet(scale[:, None] * correlation * scale))


def mixture_log_prob(components: DiagonalNormal | FullNormal, z: Tensor) -> Tensor:
    """Returns the log density of z (M, L) under the mixture of N equally weighted components: (M,).

    It is computed in float64.
    """
    count = len(components.mean)
    chunk = max(1, min(CHUNK, CHUNK * POSTERIORS // count))
    parts = [components.cross_log_prob(part).double().logsumexp(-1) for part in z.split(chunk)]
    return torch.cat(parts) - math.log(count)


def linear_probe(train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Returns the test accuracy of logistic regression on standardized posterior means (N, L)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return float(model.fit(train.numpy(), labels.numpy()).score(test.numpy(), test_labels.numpy()))


def nearest_neighbors(
    train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor, neighbors: int = NEIGHBORS
) -> float:
    """Returns the test accuracy of k-nearest neighbors on posterior means (N, L), k = neighbors.

    Raises LeftOut if there are fewer than k training images.
    """
    from sklearn.neighbors import KNeighborsClassifier

    need_images(len(train), neighbors, "training")
    model = KNeighborsClassifier(neighbors)
    return float(model.fit(train.numpy(), labels.numpy()).score(test.numpy(), test_labels.numpy()))


def active_units(means: Tensor) -> int:
    """Returns the number of latent dimensions with Var_x(E_q[z]) > 0.01, from means (N, L).

    It is 0 for a single image. Burda et al. 2016, https://arxiv.org/abs/1509.00519.
    """
    variance = means.double().var(0, correction=min(1, len(means) - 1))
    return int((variance > ACTIVE_VARIANCE).sum())


@torch.no_grad()
def posterior_means(module: VAE, data: ImageData, split: str) -> Tensor:
    """Returns E[z|x] of all images of a split, (N, L)."""
    parts = [module.encoder(x, condition).mean for _, x, condition in batches(data, split, 1000)]
    return torch.cat(parts)


@torch.no_grad()
def training_means(module: VAE, training: TrainingImages) -> Tensor:
    """Returns E[z|x] of training images, (N, L)."""
    parts = split_images(training.images, training.condition, 1000)
    return torch.cat([module.encoder(x, condition).mean for _, x, condition in parts])


class Moments(NamedTuple):
    """Moments of q(z|x) of N images: ``mean`` and ``std``, (N, L) each."""

    mean: Tensor  # E[z|x], (N, L)
    std: Tensor  # standard deviation of each coordinate of z given x, (N, L)


def moments(posterior: Posterior) -> Moments:
    """Returns the mean and the std of each coordinate of z.

    The std of a flow has no closed form, so it is estimated from STD_SAMPLES fixed draws.
    """
    marginals = posterior.marginals()
    if marginals is not None:
        return Moments(marginals.mean, marginals.std)
    mean = posterior.mean
    noise = rng.normal((STD_SAMPLES, 1, mean.shape[-1]), "cpu", EVALUATION_SEED, "std").to(mean)
    return Moments(mean, posterior.transform(noise.expand(STD_SAMPLES, *mean.shape)).std(0))


def information_per_dim(posterior: Posterior, prior: Prior) -> Tensor:
    """Returns how informative each latent dimension is about x, in nats, (L,).

    ``posterior`` holds the posteriors of N images. If the prior is N(0, I) and the posteriors are
    normal, the information of a dimension is the mean KL of its marginals to N(0, 1). Otherwise it
    is the information of a Gaussian channel with the same variances,
    1/2 log(1 + Var(mean) / E[std^2]), because the marginals of an uninformative dimension may be
    far from N(0, 1) under a learned prior.
    """
    mean, std = moments(posterior)
    if posterior.marginals() is not None and isinstance(prior, StandardNormal):
        return kl_to_standard_normal(mean.unsqueeze(-1), std.unsqueeze(-1)).mean(0)
    return 0.5 * torch.log1p(mean.var(0, correction=0) / std.square().mean(0))


@torch.no_grad()
def measure_latents(module: VAE, data: ImageData) -> dict[str, float | int | LeftOut]:
    """Returns the measures of the latents on the test images.

    They are the number of active units, and the mutual information, the marginal KL, the total
    correlation and log N in nats. Those in nats are left out for a flow and for a hierarchical
    posterior, because each pair of images would require passes through networks. Raises LeftOut for
    a single image.
    """
    need_images(data.images_in("test"), 2, "test")
    posteriors = [module.encoder(x, condition) for _, x, condition in batches(data, "test", 1000)]
    means = torch.cat([posterior.mean for posterior in posteriors])
    found: dict[str, float | int | LeftOut] = {"active_units": active_units(means)}
    if not module.encoder.has_marginals:
        reason = LeftOut("requires posterior=diagonal_normal or full_normal")
        return found | dict.fromkeys(AGGREGATE, reason)
    posterior = concatenate(posteriors)
    noise = rng.normal((1, *means.shape), "cpu", EVALUATION_SEED, "surgery").to(means)
    z = posterior.transform(noise)[0]
    parts = surgery(posterior, module.prior(module.encoder), z)
    log_n = math.log(len(means))  # upper bound of the mutual information
    correlations = total_correlation(posterior, z), gaussian_total_correlation(posterior)
    values = (parts.information, parts.marginal_kl, *correlations, log_n)
    return found | dict(zip(AGGREGATE, values, strict=True))


def concatenate(posteriors: list[DiagonalNormal] | list[FullNormal]) -> DiagonalNormal | FullNormal:
    """Returns the posteriors of several batches as one distribution."""
    values = zip(*(vars(posterior).values() for posterior in posteriors), strict=True)
    return type(posteriors[0])(*(torch.cat(parts) for parts in values))
