"""The images that a command works on: a split of the data of the run, or new images.

Shapes: N images, C H W of an image.
"""

from typing import NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from vae_lightning.checks.errors import ConfigError, counted
from vae_lightning.runs.images import BINARIZED, Inputs
from vae_lightning.runs.run import Run


class Selection(NamedTuple):
    """Images, and what is known about them."""

    x: Inputs
    label: Tensor | None  # what a conditional model conditions on, (N,)
    columns: dict[str, np.ndarray]  # index, and file and label if there are any, (N,) each
    description: str


def check_label(run: Run, label: int | None) -> None:
    """Raises ConfigError if the model does not take this label."""
    classes = run.module.classes
    if label is not None and not classes:
        raise ConfigError(
            f"label={label}: requires a model that was trained with model.conditional=true"
        )
    if label is not None and label >= classes:
        raise ConfigError(f"label={label}: must be an integer from 0 to {classes - 1}")


def select_images(run: Run, cfg: DictConfig) -> Selection:
    """Returns the first ``cfg.count`` images of ``cfg.images`` or, if it is None, of ``cfg.split``.

    Raises ConfigError if they cannot be read, do not fit the model, or require a label.
    """
    check_label(run, cfg.label)
    if cfg.images is None:
        x, names = run.inputs(cfg.split, cfg.count), []
        labels = run.labels(cfg.split)[: cfg.count].cpu()
        if not len(x):
            raise ConfigError(f"split={cfg.split}: has no images, because data.val_size=0")
        description = f"{counted(len(x), f'{cfg.split} image')} of {run.data.name}"
    else:
        if run.module.classes and cfg.label is None:
            raise ConfigError(
                f"label=null: must be an integer from 0 to {run.module.classes - 1}, because this"
                " model is conditional and new images have no labels"
            )
        x, names = run.new_images(cfg.images, "images")
        x, names, labels = x[: cfg.count], names[: cfg.count], None
        change = BINARIZED.get(run.cfg.data.binarization)
        description = counted(len(x), "image") + (f", {change}" if change else "")
    if cfg.label is not None:
        labels = torch.full((len(x),), cfg.label)
    columns = {"index": np.arange(len(x))}
    columns |= {"file": np.array(names)} if names else {}
    columns |= {} if labels is None else {"label": labels.numpy()}
    return Selection(x, labels if run.module.classes else None, columns, description)
