"""What a measure requires of the data. A measure whose data have too little is left out."""

import torch
from torch import Tensor

from vae_lightning.evaluation.batches import TrainingImages

MOST_CLASSES = 1000  # more values are numbers or names rather than classes


class LeftOut(Exception):
    """A measure has no meaning for these data. The message is the reason."""


def standard_error(values: Tensor) -> float | LeftOut:
    """Returns the standard error of the mean of values (N,); LeftOut for a single one."""
    if len(values) < 2:
        return LeftOut("requires at least 2 images")
    return float(values.std() / len(values) ** 0.5)


def need_images(count: int, least: int, split: str) -> None:
    """Raises LeftOut if a split has fewer images than a measure requires."""
    if count < least:
        raise LeftOut(f"requires at least {least} {split} images, there are {count}")


def with_classes(training: TrainingImages, test: Tensor) -> tuple[TrainingImages, Tensor]:
    """Returns training images and test labels (M,) with the labels numbered from 0 on.

    A test label that no training image has becomes -1. Raises LeftOut unless the labels are
    classes: integers with 2 to 1,000 different values.
    """
    labels = training.labels
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
        raise LeftOut("requires labels that are integers")
    values = labels.unique()
    if len(values) < 2:
        raise LeftOut("requires labels with different values, the training images have one")
    if len(values) > MOST_CLASSES:
        raise LeftOut(
            f"requires labels of at most {MOST_CLASSES} classes, there are {len(values)} values"
        )
    numbers = torch.searchsorted(values, labels.contiguous())
    found = torch.searchsorted(values, test.contiguous()).clamp(max=len(values) - 1)
    known = torch.where(values[found] == test, found, -1)
    return training._replace(labels=numbers), known
