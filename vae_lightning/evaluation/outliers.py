"""How well log p(x) separates the images of a model from those of another data set.

Shapes: N images.
"""

import io

import torch
from omegaconf import DictConfig
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from vae_lightning.checks.errors import ConfigError
from vae_lightning.config.compose import compose
from vae_lightning.data.images import ImageData
from vae_lightning.training.assembly import OWN_SOURCES, build_data


def other_images(cfg: DictConfig, name: str) -> ImageData:
    """Returns the data set ``name``, with the folder and the binarization of a run.

    If the folder holds own images of the user, the data set is looked for where it is by default.
    Raises ConfigError if its files are not available or its images have another shape.
    """
    overrides = [f"data={name}", f"data.binarization={cfg.data.binarization}", "data.val_size=0"]
    is_own = cfg.data.dataset["_target_"].rpartition(".")[2] in (
        one.__name__ for one in OWN_SOURCES
    )
    overrides += [] if is_own else [f"data.root={cfg.data.root}"]
    other = compose("config", [*overrides, "data.fallback=null"])
    if list(other.data.image_shape) != list(cfg.data.image_shape):
        raise ConfigError(
            f"against={name}: must have images of shape {list(cfg.data.image_shape)}, has"
            f" {list(other.data.image_shape)}"
        )
    return build_data(other)


def auroc(inside: Tensor, outside: Tensor) -> float:
    """Returns the area under the ROC curve: P(outside > inside) + 1/2 P(outside = inside).

    ``inside`` (N,) and ``outside`` (M,) are scores, which shall be higher for outliers.
    """
    ordered = inside.sort().values
    below = torch.searchsorted(ordered, outside, right=False)
    ties = torch.searchsorted(ordered, outside, right=True) - below
    return float((below + 0.5 * ties).double().mean() / len(inside))


def complexity(images: Tensor) -> Tensor:
    """Returns the length in nats of uint8 images (N, C, H, W), compressed as PNG: (N,)."""
    lengths = []
    for image in images.cpu():
        buffer = io.BytesIO()
        to_pil_image(image).save(buffer, "PNG", optimize=True)
        lengths.append(8 * len(buffer.getvalue()))
    return torch.tensor(lengths, dtype=torch.float64) * torch.log(torch.tensor(2.0)).double()


def separate(
    inside: Tensor, outside: Tensor, images: Tensor, other_images: Tensor
) -> dict[str, float]:
    """Returns the AUROC of two scores of outliers.

    They are -log p(x), and -log p(x) minus the complexity of the image, because simple images have
    a high log p(x) under any model. Serra et al. 2020, https://arxiv.org/abs/1909.11480.

    Args:
        inside: -log p(x) of images of the kind that the model was trained on, (N,).
        outside: -log p(x) of the other images, (M,).
        images: the images of ``inside``, uint8.
        other_images: the images of ``outside``, uint8.
    """
    corrected = inside - complexity(images), outside - complexity(other_images)
    return {"auroc_nll": auroc(inside, outside), "auroc_complexity": auroc(*corrected)}
