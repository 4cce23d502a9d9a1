"""A finished run as objects again: configuration, model with its weights, data."""

import pickle
from pathlib import Path
from typing import NamedTuple

import torch
from omegaconf import DictConfig

from vae_lightning import runs
from vae_lightning.data import ImageData
from vae_lightning.module import VAE
from vae_lightning.trainers import build_data, build_module, quiet

CHECKPOINTS = {"best": runs.BEST, "last": runs.LAST}


class Loaded(NamedTuple):
    """What a run folder holds, ready to use."""

    cfg: DictConfig
    module: VAE  # on the CPU, in evaluation mode
    data: ImageData  # the set that the run was trained on
    step: int  # optimiser steps behind the weights


def load(run: Path, key: str = "run", checkpoint: str = "best", trust: bool = False) -> Loaded:
    """The run in a folder; its code is this package's, unless ``trust`` lets it name other classes.

    Raises ValueError, naming ``key``, where the folder holds no run, no such checkpoint, a damaged one, one that
    another version wrote, or where the data set that it was trained on is not there.
    """
    if checkpoint not in CHECKPOINTS:
        raise ValueError(f"checkpoint={checkpoint}: must be best or last")
    cfg, _ = runs.read_config(run, key)
    cfg.trust = trust
    quiet()
    stored = read_checkpoint(run / CHECKPOINTS[checkpoint], f"{key}={run}")
    module = build_module(cfg)
    try:
        module.load_state_dict(stored["state_dict"])
    except RuntimeError as error:
        raise ValueError(f"{key}={run}: its weights do not fit its configuration; another version wrote it") from error
    return Loaded(cfg, module.eval(), build_data(cfg), stored["global_step"])


def read_checkpoint(path: Path, named: str) -> dict[str, object]:
    """The content of a checkpoint, which runs no code; ValueError where it is not there or damaged."""
    if not path.is_file():
        raise ValueError(f"{named}: must have {path.name}, which is written when the first epoch is done")
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        other = "last" if path.name == runs.BEST.name else "best"
        raise ValueError(f"{named}: {path.name} is damaged; the other one is checkpoint={other}") from error
