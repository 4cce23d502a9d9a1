"""Metrics of samples and reconstructions that require no download.

The features come from a small classifier that is trained on the training images and labels. Its
accuracy is reported. Metrics are comparable only if they use the same classifier.
Shapes: N images, C H W of an image, F features.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from vae_lightning import rng
from vae_lightning.data.images import ImageData
from vae_lightning.distributions import Mixture, Prior
from vae_lightning.evaluation.batches import batches
from vae_lightning.evaluation.classifier import accuracy, classifier, features_of
from vae_lightning.training.module import EVALUATION_SEED, VAE

SSIM_WINDOW = 11  # pixels, for which torchmetrics' default standard deviation of 1.5 is made
NEIGHBORS = 3  # k of the k-nearest-neighbor precision and recall of Kynkaanniemi et al.


def measure_samples(
    module: VAE, data: ImageData, pixels: str = "mean", mixture: Mixture | None = None
) -> dict[str, float]:
    """Returns the errors of reconstructions and the metrics of samples, on the test images.

    Reconstructions are decoded from posterior means. There are as many samples as test images, from
    the prior, and as many from ``mixture`` if there is one. ``pixels`` says what a sample is:
    ``mean``, the mean of p(x|z), of which binarized data take the pixels as probabilities; or
    ``draw``, a draw from p(x|z). Its pixels are clipped to [0, 1].
    """
    labels, device = data.labels["test"], data.images["test"].device
    with torch.no_grad():
        decoded = [
            module.decoder(module.encoder(x, condition).mean[None], condition).mean[0]
            for _, x, condition in batches(data, "test", 1000)
        ]
        prior = module.prior(module.encoder)
    model = classifier(data, device)
    test, _ = data.inputs("test", slice(None))
    real = features_of(model, test)
    found = reconstruction_error(test, torch.cat(decoded))
    for prefix, codes in (("", prior), *([("gmm_", mixture)] if mixture else [])):
        sampled = features_of(model, draw_samples(module, data, codes, pixels))
        precision, recall = overlap(real, sampled)
        found[f"{prefix}frechet_distance"] = frechet_distance(real, sampled)
        found |= {f"{prefix}precision": precision, f"{prefix}recall": recall}
    return found | {"classifier_accuracy": accuracy(model, data.images["test"], labels)}


@torch.no_grad()
def draw_samples(module: VAE, data: ImageData, prior: Prior, pixels: str) -> Tensor:
    """Returns decoded samples of a prior, as many as test images, in [0, 1]: (N, C, H, W)."""
    generator = rng.generator(data.images["test"].device, EVALUATION_SEED, "quality")
    z = prior.sample(data.images_in("test"), generator)
    samples = []
    for index, _, condition in batches(data, "test", 1000):
        likelihood = module.decoder(z[index][None], condition)
        if pixels == "draw":
            image = likelihood.sample(generator)[0].clamp(0, 1)
        else:
            image = likelihood.mean[0].clamp(0, 1)
            if data.binarization != "none":
                image = torch.bernoulli(image, generator=generator)
        samples.append(image)
    return torch.cat(samples)


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Returns the squared Frechet distance of two sets of features, (N, F) and (M, F).

    It is the distance of the normal distributions with the means and covariances of the two sets:
    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2). Heusel et al. 2017,
    https://arxiv.org/abs/1706.08500.
    """
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

    The neighborhood of a point reaches to its NEIGHBORS-th nearest neighbor.
    """
    return Overlap(covered(samples, real), covered(real, samples))


def covered(points: Tensor, centers: Tensor) -> float:
    """Returns the fraction of points (N, F) that lie in the neighborhood of a center (M, F).

    The radius of a neighborhood is the distance of its center to the NEIGHBORS-th nearest other
    center.
    """
    radius = torch.cat(
        [
            torch.cdist(part, centers).kthvalue(NEIGHBORS + 1, dim=1).values
            for part in centers.split(1000)
        ]
    )
    inside = [(torch.cdist(part, centers) <= radius).any(1).sum() for part in points.split(1000)]
    return float(sum(inside)) / len(points)


def reconstruction_error(x: Tensor, decoded: Tensor) -> dict[str, float]:
    """Returns the mean squared error per pixel, the PSNR in dB and the SSIM.

    x and decoded are images (N, C, H, W) in [0, 1]. The SSIM is averaged over the windows of 11 x
    11 pixels that lie within the image, as in Wang et al. 2004,
    https://doi.org/10.1109/TIP.2003.819861; smaller images have none.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    mse = float((x - decoded).square().mean())
    ssim: list[Tensor] = []
    for a, b in zip(decoded.split(1000), x.split(1000), strict=True):
        if min(a.shape[-2:]) < SSIM_WINDOW:
            break
        _, full = structural_similarity_index_measure(a, b, data_range=1.0, return_full_image=True)
        inside = slice(SSIM_WINDOW // 2, -(SSIM_WINDOW // 2))  # the other windows are padded
        ssim.append(full[..., inside, inside].mean((1, 2, 3)))
    errors = {"mse": mse, "psnr": -10 * float(torch.tensor(mse, dtype=torch.float64).log10())}
    return errors | ({"ssim": float(torch.cat(ssim).mean())} if ssim else {})
