"""Stops a run whose numbers are not finite, and finds the step and the images where it began."""

import logging
import warnings
from typing import NoReturn

import torch
from lightning.pytorch import LightningModule, Trainer
from omegaconf import DictConfig
from torch import Tensor
from torch.optim import Optimizer

from vae_lightning.checks.errors import NotFinite
from vae_lightning.data.batches import Batch
from vae_lightning.data.images import ImageData
from vae_lightning.objectives import Terms
from vae_lightning.training.assembly import build_module
from vae_lightning.training.callbacks.averaging import TrainedWeights
from vae_lightning.training.checkpoint import SavedProgress
from vae_lightning.training.module import VAE
from vae_lightning.training.trainer import make_trainer, trainer_arguments

log = logging.getLogger(__name__)

SHOWN_IMAGES = 5
ADVICE = "a smaller optimizer.lr or trainer.gradient_clip_val=1 may help"


def check_parameters(module: LightningModule, step: int) -> None:
    """Raises NotFinite if a parameter or buffer is not finite."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise NotFinite(f"{name} is not finite after step {step}; {ADVICE}")


class CheckedStep:
    """Takes plain optimizer steps and raises NotFinite at the first one that is not finite."""

    def __init__(self, module: VAE) -> None:
        self.module = module

    def __call__(self, batch: Batch, optimizer: Optimizer, step: int) -> None:
        """Takes one step. If its loss is not finite, goes back and looks at its terms."""
        before = {name: tensor.clone() for name, tensor in self.module.state_dict().items()}
        self.module.take_step(batch, optimizer, step)
        try:
            self.module.sums["train"].check()
        except NotFinite:
            self.module.load_state_dict(before)
            self.look(batch, step)
            raise
        check_parameters(self.module, step + 1)

    @torch.no_grad()
    def look(self, batch: Batch, step: int) -> None:
        """Raises NotFinite with the first term that is not finite."""
        module = self.module
        terms = module(batch.x, module.training_noise(batch, step), batch.condition)
        loss = module.objective(terms, step)
        for name, value in (("recon", terms.mean_recon), ("KL", terms.kl), ("the loss", loss)):
            if not bool(value.isfinite().all()):
                refuse(name, value, terms, batch, step)


def refuse(name: str, value: Tensor, terms: Terms, batch: Batch, step: int) -> NoReturn:
    """Raises NotFinite with the term, the step, the images and the range of std."""
    found = batch.index[~value.isfinite()].tolist()
    more = ", ..." if len(found) > SHOWN_IMAGES else ""
    images = ", ".join(map(str, found[:SHOWN_IMAGES])) + more
    marginals = terms.posterior.marginals()
    spread = ""
    if marginals is not None:
        least, most = marginals.std.amin().item(), marginals.std.amax().item()
        spread = f"; std of q(z|x) is from {least:.3g} to {most:.3g}"
    raise NotFinite(
        f"{name} is not finite at step {step} for {len(found)} of {len(value)} training images"
        f" ({images}){spread}; {ADVICE}"
    )


def locate(cfg: DictConfig, data: ImageData, saved: SavedProgress, error: NotFinite) -> NotFinite:
    """Repeats the training from the last checkpoint, with a look at every step.

    Returns an error that names the step and the images, or the given one if all of them are finite
    or Lightning takes the steps of the run itself.
    """
    if cfg.accelerator.strategy != "auto" or cfg.trainer.accumulate_grad_batches > 1:
        return error
    log.info("not finite: repeating the steps since the last checkpoint to find the first such one")
    module = build_module(cfg)
    module.start_from(data)
    arguments = trainer_arguments(cfg) | {
        "logger": False,
        "enable_checkpointing": False,
        "callbacks": [TrainedWeights()],
        "limit_val_batches": 0,
        "num_sanity_val_steps": 0,
        "max_epochs": saved.epochs + 1,
    }
    trainer: Trainer = make_trainer(cfg, arguments)
    module.use_fast_path(CheckedStep(module))
    data.group_batches(max(2, cfg.trainer.steps_per_execution))  # 1 would be no group
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the checkpoint also holds the state of callbacks
        try:
            trainer.fit(module, data, ckpt_path=saved.path, weights_only=True)
        except NotFinite as located:
            return located
    return error
