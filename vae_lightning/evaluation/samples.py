"""Metrics of samples and reconstructions that require no download.

The features come from a small classifier that is trained on the training images and labels. Its
accuracy is reported. Metrics are comparable only if they use the same classifier.
Shapes: N images, C H W of an image, F features.
"""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from vae_lightning import rng
from vae_lightning.data.images import ImageData
from vae_lightning.distributions import Prior
from vae_lightning.evaluation.batches import batches
from vae_lightning.evaluation.classifier import Classifier, features_of
from vae_lightning.evaluation.needs import LeftOut, need_images
from vae_lightning.training.module import EVALUATION_SEED, VAE

SSIM_WINDOW = 11  # pixels, for which torchmetrics' default standard deviation of 1.5 is made
NEIGHBORS = 3  # k of the k-nearest-neighbor precision and recall of Kynkaanniemi et al.
DISTANCES = 10_000_000  # that are computed at once: 80 MB


@torch.no_grad()
def measure_reconstructions(module: VAE, data: ImageData) -> dict[str, float | LeftOut]:
    """Returns the errors of the reconstructions of the test images from posterior means."""
    pairs = (
        (x, module.decoder(module.encoder(x, condition).mean[None], condition).mean[0])
        for _, x, condition in batches(data, "test", 1000)
    )
    return reconstruction_error(pairs)


def sample_features(
    module: VAE, data: ImageData, prior: Prior, model: Classifier, pixels: str = "mean"
) -> Tensor:
    """Returns the features (N, F) of as many samples as there are test images.

    ``pixels`` says what a sample is: ``mean``, the mean of p(x|z), of which binarized data take the
    pixels as probabilities; or ``draw``, a draw from p(x|z). Its pixels are clipped to [0, 1].
    """
    return torch.cat(
        [features_of(model, images) for images in draw_samples(module, data, prior, pixels)]
    )


@torch.no_grad()
def draw_samples(module: VAE, data: ImageData, prior: Prior, pixels: str) -> Iterator[Tensor]:
    """Yields decoded samples of a prior, as many as test images, in [0, 1]: (B, C, H, W)."""
    generator = rng.generator(data.images["test"].device, EVALUATION_SEED, "quality")
    z = prior.sample(data.images_in("test"), generator)
    for index, _, condition in batches(data, "test", 1000):
        likelihood = module.decoder(z[index][None], condition)
        if pixels == "draw":
            image = likelihood.sample(generator)[0].clamp(0, 1)
        else:
            image = likelihood.mean[0].clamp(0, 1)
            if data.binarization != "none":
                image = torch.bernoulli(image, generator=generator)
        yield image


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Returns the squared Frechet distance of two sets of features, (N, F) and (M, F).

    It is the distance of the normal distributions with the means and covariances of the two sets:
    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2). Heusel et al. 2017,
    https://arxiv.org/abs/1706.08500. Raises LeftOut for so few images that their covariance is
    singular.
    """
    need_images(len(first), first.shape[1] + 1, "test")
    mean1, mean2 = first.mean(0), second.mean(0)
    cov1, cov2 = first.T.cov(), second.T.cov()
    values, vectors = torch.linalg.eigh(cov1)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov2 @ root).clamp(min=0).sqrt().sum()
    return float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * cross)


class Overlap(NamedTuple):
    """Improved precision and recall.

    Kynkaanniemi et al. 2019, https://arxiv.org/abs/1904.06991.
    """

    precision: float  # fraction of samples within the neighborhoods of real images
    recall: float  # fraction of real images within the neighborhoods of samples


def overlap(real: Tensor, samples: Tensor) -> Overlap:
    """Returns the improved precision and recall of features (N, F) and (M, F).

    The neighborhood of a point reaches to its NEIGHBORS-th nearest neighbor. Raises LeftOut if
    there are not as many neighbors.
    """
    need_images(len(real), NEIGHBORS + 1, "test")
    return Overlap(covered(samples, real), covered(real, samples))


def covered(points: Tensor, centers: Tensor) -> float:
    """Returns the fraction of points (N, F) that lie in the neighborhood of a center (M, F).

    The radius of a neighborhood is the distance of its center to the NEIGHBORS-th nearest other
    center.
    """
    size = max(1, min(1000, DISTANCES // len(centers)))
    radius = torch.cat(
        [
            torch.cdist(part, centers).kthvalue(NEIGHBORS + 1, dim=1).values
            for part in centers.split(size)
        ]
    )
    inside = [(torch.cdist(part, centers) <= radius).any(1).sum() for part in points.split(size)]
    return float(sum(inside)) / len(points)


def reconstruction_error(pairs: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float | LeftOut]:
    """Returns the mean squared error per pixel, the PSNR in dB and the SSIM.

    ``pairs`` are batches of images and of their reconstructions, (B, C, H, W) in [0, 1]. The SSIM
    is averaged over the windows of 11 x 11 pixels that lie within the image, as in Wang et al.
    2004, https://doi.org/10.1109/TIP.2003.819861; smaller images have none. The PSNR of perfect
    reconstructions is infinite, and left out.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    total, values, ssim = 0.0, 0, []
    for x, decoded in pairs:
        total += float((x - decoded).double().square().sum())
        values += x.numel()
        if min(x.shape[-2:]) >= SSIM_WINDOW:
            _, full = structural_similarity_index_measure(
                decoded, x, data_range=1.0, return_full_image=True
            )
            inside = slice(SSIM_WINDOW // 2, -(SSIM_WINDOW // 2))  # the other windows are padded
            ssim.append(full[..., inside, inside].mean((1, 2, 3)))
    errors: dict[str, float | LeftOut] = {"mse": total / values}
    is_perfect = total == 0
    errors["psnr"] = LeftOut("is infinite") if is_perfect else -10 * math.log10(total / values)
    return errors | ({"ssim": float(torch.cat(ssim).mean())} if ssim else {})
