"""A run's model from its folder, or from a .safetensors file: no data are needed, and no code is run that is stored."""

import json
import logging
import pickle
import re
from pathlib import Path
from typing import NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from vae_lightning import __version__, cli, extras, runs
from vae_lightning.module import VAE
from vae_lightning.trainers import build_module, quiet

log = logging.getLogger(__name__)

CHECKPOINTS = {"best": runs.BEST, "last": runs.LAST}
# what building a model from a configuration of another version may raise
UNBUILDABLE = (*cli.WRONG, AttributeError, KeyError, TypeError, ValueError)


class Stored(NamedTuple):
    """A model with its weights and what it comes from."""

    cfg: DictConfig
    module: VAE  # on the CPU, in evaluation mode
    checkpoint: str  # best or last
    step: int  # optimiser steps behind the weights


def read_run(run: Path, checkpoint: str, trust: bool) -> Stored:
    """The model in a run folder; warns where the run is not finished.

    Raises ValueError, one line, where there is no run, no such checkpoint, or one is damaged or of another version.
    """
    if checkpoint not in CHECKPOINTS:
        raise ValueError(f"checkpoint={checkpoint}: must be best or last")
    try:
        cfg, _ = runs.read_config(run, "run")
    except (OSError, *cli.WRONG) as error:
        found = " ".join(str(error).split())
        raise ValueError(f"run={run}: .hydra is damaged ({found}); the weights in checkpoints/ may be whole") from error
    state = state_of(run)
    if not any((run / path).is_file() for path in CHECKPOINTS.values()):
        raise ValueError(f"run={run}: has no checkpoint yet ({state}); resume={run} goes on with its training")
    stored = read_checkpoint(run / CHECKPOINTS[checkpoint], f"run={run}")
    if "state_dict" not in stored or "global_step" not in stored:
        raise ValueError(f"run={run}: {checkpoint}.ckpt is not a checkpoint of this package; it has no state_dict")
    module = build(cfg, stored["state_dict"], f"run={run}", written_by(run), trust)
    if state != "finished":
        step = stored["global_step"]
        log.warning("run=%s: is not finished (%s); these are the weights of its step %d", run, state, step)
    return Stored(cfg, module, checkpoint, stored["global_step"])


def read_checkpoint(path: Path, named: str) -> dict[str, object]:
    """The content of a checkpoint, which runs no code; ValueError where it is not there or damaged."""
    if not path.is_file():
        raise ValueError(f"{named}: must have {path.name}, which is written when the first epoch is done")
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        other = "last" if path.name == runs.BEST.name else "best"
        raise ValueError(f"{named}: {path.name} is damaged; the other one is checkpoint={other}") from error


def build(cfg: DictConfig, state: dict[str, Tensor], named: str, version: str, trust: bool) -> VAE:
    """The model of a configuration with these weights; ValueError where this version cannot make it."""
    cfg.trust = trust
    quiet()
    try:
        module = build_module(cfg)
    except UNBUILDABLE as error:
        if "trust=true" in str(error):
            raise
        found = " ".join(str(error).split())
        raise ValueError(
            f"{named}: version {version} wrote it, and {__version__} cannot build it ({found}); take that version"
        ) from error
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"{named}: its weights do not fit its configuration; take version {version}, which wrote it"
        ) from error
    return module.eval()


def state_of(run: Path) -> str:
    """What status.json says: finished, or running, interrupted, failed; unknown where it says nothing."""
    return str(read_json(run, "status.json").get("state", "state unknown"))


def written_by(run: Path) -> str:
    """The version of this package that wrote a run, as metrics.json has it, else unknown."""
    found = re.search(r"vae_lightning (\S+)", str(read_json(run, "metrics.json").get("versions", "")))
    return found.group(1) if found else "unknown"


def read_json(run: Path, name: str) -> dict[str, object]:
    """A JSON file of a run, empty where it is not there; ValueError where it is damaged."""
    try:
        return runs.read_json(run / name)
    except json.JSONDecodeError as error:
        raise ValueError(f"run={run}: {name} is damaged ({error}); remove it, the weights do not need it") from error


def write_safetensors(path: Path, stored: Stored) -> None:
    """The state dict, and as metadata what builds the model again: configuration, checkpoint, step, data, version."""
    from safetensors.torch import save

    config = OmegaConf.to_container(runs.own_part(stored.cfg), resolve=True)
    metadata = {"config": json.dumps(config), "checkpoint": stored.checkpoint, "step": str(stored.step)}
    metadata |= {"data": stored.cfg.data.name, "vae_lightning": __version__}
    # clones: the format refuses tensors that share memory
    state = {name: tensor.detach().clone().contiguous() for name, tensor in stored.module.state_dict().items()}
    path.write_bytes(save(state, metadata))


def read_safetensors(path: Path, trust: bool) -> Stored:
    """The model in a file of write_safetensors; ValueError, one line, where it is missing, damaged or another's."""
    extras.need(f"run={path}", extras.FORMATS["safetensors"])
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ValueError(f"run={path}: must be a run folder, or a .safetensors file that export wrote")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise ValueError(f"run={path}: is damaged ({error}); export run=RUN format=safetensors writes it") from error
    if not {"config", "checkpoint", "step"} <= set(metadata):
        raise ValueError(f"run={path}: must be written by this package's export; it has no configuration")
    cfg = OmegaConf.create(json.loads(metadata["config"]))
    cfg.data.fallback = None
    module = build(cfg, state, f"run={path}", metadata.get("vae_lightning", "unknown"), trust)
    return Stored(cfg, module, metadata["checkpoint"], int(metadata["step"]))
