"""A run as objects again: configuration, model with its weights, data."""

from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from vae_lightning import weights
from vae_lightning.data import ImageData
from vae_lightning.module import VAE
from vae_lightning.trainers import build_data


class Loaded(NamedTuple):
    """What a run folder holds, ready to use."""

    cfg: DictConfig
    module: VAE  # on the CPU, in evaluation mode
    data: ImageData  # the set that the run was trained on
    step: int  # optimiser steps behind the weights


def load(run: Path, checkpoint: str = "best", trust: bool = False) -> Loaded:
    """The run in a folder; its code is this package's, unless ``trust`` lets it name other classes.

    Raises ValueError, one line, for what ``weights.read_run`` refuses, and where the data set that the run was trained
    on is not there.
    """
    stored = weights.read_run(run, checkpoint, trust)
    return Loaded(stored.cfg, stored.module, build_data(stored.cfg), stored.step)
