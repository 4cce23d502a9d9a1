"""Tiny models of any options of the YAML files: each option's node is composed once, then the nodes are joined."""

import copy
import functools
from types import SimpleNamespace

import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from vae_lightning.cli import CONF, compose
from vae_lightning.module import VAE
from vae_lightning.trainers import build_module

IMAGE_SHAPE = [1, 4, 4]
SIZES: dict[str, object] = {
    "model.latent_dim": 2,
    "model.hidden_dims": [8],
    "model.widths": [2, 3],
    "model.blocks": 1,
    "model.activation": "silu",  # of so few units, relu's may all be dead
    "posterior.hidden_dims": [8],
    "posterior.context": 3,
    "prior.hidden_dims": [8, 8],
    "prior.pseudo_inputs": 4,
    "prior.components": 3,
}


def options(group: str) -> list[str]:
    """The names of a group's YAML files."""
    return sorted(path.stem for path in (CONF / group).glob("[!_]*.yaml"))


@functools.cache
def default() -> DictConfig:
    cfg = compose("config", [f"data.image_shape={IMAGE_SHAPE}".replace(" ", "")])
    cfg.trust = True
    return OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])


@functools.cache
def option(group: str, name: str) -> DictConfig:
    """The node of one option, as composed, without its place."""
    return OmegaConf.create(OmegaConf.to_container(compose("config", [f"{group}={name}"])[group], resolve=False))


def tiny(*overrides: str) -> DictConfig:
    """The configuration with GROUP=NAME and key=value overrides, as on the command line, and small sizes."""
    cfg = copy.deepcopy(default())
    pairs = [override.split("=", 1) for override in overrides]
    for group, name in pairs:
        if "." not in group:
            cfg[group] = option(group, name)
    for key, value in SIZES.items():
        if OmegaConf.select(cfg, key) is not None:
            OmegaConf.update(cfg, key, value)
    for key, value in pairs:
        if "." in key:
            OmegaConf.update(cfg, key, yaml.safe_load(value))
    return cfg


def images(binary: bool, count: int = 12) -> Tensor:
    """uint8 images, grey or of 0 and 255 only."""
    values = torch.randint(0, 256, (count, *IMAGE_SHAPE), generator=torch.Generator().manual_seed(7))
    return ((values > 127) * 255 if binary else values).to(torch.uint8)


def tiny_model(cfg: DictConfig) -> tuple[VAE, Tensor, tuple[Tensor, ...]]:
    """A model that has started from tiny data that fit it, a batch of them, and the labels that it is called with."""
    data = images(cfg.likelihood["_target_"].endswith(".BernoulliLikelihood") and not cfg.likelihood.grey)
    model = build_module(cfg)
    model.start_from(SimpleNamespace(images={"train": data}, binarization=cfg.data.binarization))
    return model, data[:6] / 255, (torch.arange(6) % 3,) if cfg.model.conditional else ()


def loss_of(model: VAE, x: Tensor, condition: tuple[Tensor, ...], step: int = 0) -> Tensor:
    """The mean loss of a batch, its noise depending on the step alone."""
    shape = (model.objective.num_samples, len(x), model.latent_dim)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(step))
    return model.objective(model(x, noise, *condition), step).mean()
