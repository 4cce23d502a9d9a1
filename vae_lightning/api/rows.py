"""Trains a model on the rows of a matrix, for the estimator.

Shapes: N samples, C H W of an image.
"""

import functools

import torch
from omegaconf import DictConfig
from torch import Tensor

from vae_lightning.api.training import composed
from vae_lightning.checks.errors import ConfigError
from vae_lightning.compile import accelerate
from vae_lightning.config import options
from vae_lightning.data.images import ImageData
from vae_lightning.data.sources.source import Part, empty
from vae_lightning.runs.build import build
from vae_lightning.training.assembly import build_module, check_user_classes, limits
from vae_lightning.training.module import VAE
from vae_lightning.training.trainer import (
    make_trainer,
    silence_notices,
    steps_per_execution,
    trainer_arguments,
)
from vae_lightning.version import __version__

# the likelihood unless the overrides choose one: of rows of two values, and of others
BINARY = ("likelihood=bernoulli",)
GRAY = ("likelihood=gaussian", "likelihood.std=optimal")  # fits data of any scale within [0, 1]
# what belongs to a run folder, or is an argument of the estimator
REFUSED = (
    *("accelerator", "callbacks", "debug", "experiment", "from_config", "hydra"),
    *("init_from", "logger", "resume", "seed"),
)
# of the sections data and trainer, what has a meaning for rows in memory
MORE_KEYS = (
    *("data.augment", "data.binarization", "trainer.accumulate_grad_batches", "trainer.compile"),
    *("trainer.gradient_clip_algorithm", "trainer.gradient_clip_val", "trainer.precision"),
    *("trainer.skip_gradient_above", "trainer.steps_per_execution"),
)


@functools.lru_cache(maxsize=16)
def checked_configuration(*words: str) -> DictConfig:
    """Composes and checks these overrides, which takes longer than a small training."""
    none = ("callbacks=none", "logger=none", "trainer.compile=false")
    cfg, _ = composed([*none, *words], {})
    options.check(cfg)
    options.settle(cfg)
    cfg.trust = True
    check_user_classes(cfg)
    if cfg.model.get("conditional", False):
        raise ConfigError("model.conditional=true: requires fit, because rows have no labels")
    return cfg


def train(cfg: DictConfig, images: Tensor) -> VAE:
    """The model of a configuration, trained on images (N, C, H, W), uint8; in float64."""
    silence_notices()
    none = empty(cfg.data.image_shape)
    parts = {"train": Part(images, torch.zeros(len(images), dtype=torch.int64))}
    data = ImageData(
        "rows",
        parts | {"val": none, "test": none},
        cfg.data.batch_size,
        cfg.data.binarization,
        cfg.seed,
        augment=list(cfg.data.augment),
    )
    module = build_module(cfg)
    module.start_from(data)
    data.limit(limits(cfg))
    data.group_batches(steps_per_execution(cfg, []))
    arguments = trainer_arguments(cfg) | {
        "max_epochs": cfg.trainer.max_epochs,
        "accumulate_grad_batches": cfg.trainer.accumulate_grad_batches,
        "limit_val_batches": 0,
        "logger": False,
        "enable_checkpointing": False,
    }
    trainer = make_trainer(cfg, arguments)
    with accelerate(cfg, trainer, module, data):
        trainer.fit(module, data)
    state = {name: value.cpu() for name, value in module.state_dict().items()}
    return build(cfg, state, "VAEEstimator", __version__, trust=True).double()
