"""How good samples and reconstructions look, by numbers that need no download.

The features are those of a small classifier that the command trains on the training labels; its accuracy is reported,
and figures compare only under the same one. Shapes: N images, C H W of an image, F features.
"""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae_lightning import rng
from vae_lightning.data import ImageData

FEATURES, EPOCHS, BATCH = 64, 3, 128
NEIGHBOURS = 3  # of the precision and recall of Kynkaanniemi et al.


class Classifier(nn.Module):
    """Images (N, C, H, W) -> logits (N, classes); ``features`` are what the last layer reads."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(channels, 16, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Flatten(), nn.LazyLinear(FEATURES), nn.ReLU()),
        )
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) -> (N, classes)."""
        return self.head(self.features(x))


def cache_file(data: ImageData) -> Path:
    """Where the classifier of these training images is kept between commands."""
    digest = hashlib.sha256(data.images["train"].cpu().numpy().tobytes()).hexdigest()[:16]
    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return root / "vae_lightning" / f"classifier-{digest}.pt"


def classifier(data: ImageData, device: torch.device) -> Classifier:
    """The classifier of the training images: from the cache, or trained now (about ten seconds on two cores)."""
    path = cache_file(data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Classifier(data.images["train"].shape[1], int(data.labels["train"].max()) + 1).to(device)
        model(data.images["train"][:1].to(device).float() / 255)  # sets the size of the lazy layer
    if path.is_file():
        model.load_state_dict(torch.load(path, weights_only=True, map_location=device))
        return model.eval()
    images, labels = data.images["train"].to(device), data.labels["train"].to(device)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(images), generator=rng.generator("cpu", 0, "classifier", epoch)).to(device)
        for index in order.split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(images[index].float() / 255), labels[index]).backward()
            optimizer.step()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save(model.state_dict(), temporary)
    os.replace(temporary, path)
    return model.eval()


def accuracy(model: Classifier, images: Tensor, labels: Tensor) -> float:
    """Fraction of uint8 images (N, C, H, W) that the classifier gets right."""
    with torch.no_grad():
        right = [
            (model(part.float() / 255).argmax(-1) == own).sum()
            for part, own in zip(images.split(1000), labels.split(1000), strict=True)
        ]
    return float(sum(right)) / len(images)


def features_of(model: Classifier, images: Tensor) -> Tensor:
    """Features (N, F), float64 on the CPU, of images (N, C, H, W) in [0, 1]."""
    with torch.no_grad():
        return torch.cat([model.features(part).double().cpu() for part in images.split(1000)])


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Distance of the normals with the moments of two sets of features (N, F) and (M, F), squared.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2). Heusel et al. 2017, https://arxiv.org/abs/1706.08500.
    """
    mean1, mean2 = first.mean(0), second.mean(0)
    cov1, cov2 = first.T.cov(), second.T.cov()
    values, vectors = torch.linalg.eigh(cov1)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov2 @ root).clamp(min=0).sqrt().sum()
    return float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * cross)


class Overlap(NamedTuple):
    """Kynkaanniemi et al. 2019, https://arxiv.org/abs/1904.06991."""

    precision: float  # fraction of samples that lie within the real images' neighbourhoods
    recall: float  # fraction of real images that lie within the samples'


def overlap(real: Tensor, samples: Tensor) -> Overlap:
    """Improved precision and recall of features (N, F) and (M, F), neighbourhoods of NEIGHBOURS nearest neighbours."""
    return Overlap(covered(samples, real), covered(real, samples))


def covered(points: Tensor, centres: Tensor) -> float:
    """Fraction of the points (N, F) within the distance of some centre (M, F) to its NEIGHBOURS-th neighbour."""
    radius = torch.cat(
        [torch.cdist(part, centres).kthvalue(NEIGHBOURS + 1, dim=1).values for part in centres.split(1000)]
    )
    inside = [(torch.cdist(part, centres) <= radius).any(1).sum() for part in points.split(1000)]
    return float(sum(inside)) / len(points)


def reconstruction_error(x: Tensor, decoded: Tensor) -> dict[str, float]:
    """Mean squared error per pixel, PSNR in dB of it, and SSIM, of images (N, C, H, W) in [0, 1]."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    mse = float((x - decoded).square().mean())
    ssim = [
        structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")
        for a, b in zip(decoded.split(1000), x.split(1000), strict=True)
    ]
    return {
        "mse": mse,
        "psnr": -10 * float(torch.tensor(mse, dtype=torch.float64).log10()),
        "ssim": float(torch.cat(ssim).mean()),
    }
