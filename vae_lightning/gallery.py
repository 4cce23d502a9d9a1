"""While a run trains: pictures and latent statistics in TensorBoard and in pictures/, and an alarm on collapse."""

import logging
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor

from vae_lightning import runs
from vae_lightning.evaluation import active_units
from vae_lightning.views import Viewer

log = logging.getLogger(__name__)

CHARTS = {
    "terms of the bound": {
        "recon and KL": ["Multiline", ["train/recon", "val/recon", "train/kl", "val/kl"]],
        "-ELBO": ["Multiline", ["train/neg_elbo", "val/neg_elbo"]],
    }
}


class Gallery(Callback):
    """Draws the same test images and the same noise at every logged epoch, so that training can be scrubbed through.

    Args:
        every_n_epochs: an epoch is drawn if its number is a multiple; the last always is.
        images: test images behind latents and statistics.
        collapse_below: alarm when fewer than this fraction of the latent dimensions are active.
    """

    def __init__(self, every_n_epochs: int, images: int, collapse_below: float) -> None:
        self.every_n_epochs, self.images, self.collapse_below = every_n_epochs, images, collapse_below
        self.collapsed = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts recon and KL of both splits on one chart."""
        if trainer.is_global_zero:
            trainer.logger.experiment.add_custom_scalars(CHARTS)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws, unless this epoch is left out; every rank logs the active units, which Lightning expects."""
        data = trainer.datamodule
        images, _ = data.inputs("test", slice(self.images))
        about = describe(data.name, pl_module, trainer.callback_metrics, trainer.current_epoch + 1)
        viewer = Viewer(pl_module, images, data.labels["test"][: self.images], about)
        pl_module.eval()
        with torch.no_grad():
            active = active_units(viewer.posterior.mean)
            pl_module.log("latents/active_units", float(active), batch_size=1)
            if trainer.is_global_zero:
                self.watch(trainer, active, pl_module.latent_dim)
                number = trainer.current_epoch + 1
                if number % self.every_n_epochs == 0 or number == trainer.max_epochs:
                    self.draw(trainer, viewer)
        pl_module.train()

    def watch(self, trainer: Trainer, active: int, latent_dim: int) -> None:
        """Raises the alarm when the posterior collapses, in log and status.json; takes it back if it recovers."""
        collapsed = active < self.collapse_below * latent_dim
        if collapsed == self.collapsed:
            return
        self.collapsed = collapsed
        alarm = None
        if collapsed:
            alarm = (
                f"posterior collapse: {active} of {latent_dim} latent dimensions are active; try annealing=linear,"
                " objective=free_bits, a smaller objective.beta, or a weaker decoder"
            )
            log.warning("%s", alarm)
        runs.set_alarm(Path(trainer.logger.save_dir), alarm)

    def draw(self, trainer: Trainer, viewer: Viewer) -> None:
        """All views of this epoch."""
        writer, step = trainer.logger.experiment, trainer.global_step - 1  # as Lightning numbers scalars
        pictures = {
            "reconstructions": viewer.reconstructions(),
            "samples": viewer.samples(),
            "traversals": viewer.traversals(),
            "kl_per_dimension": viewer.kl_bars(),
        }
        if viewer.module.latent_dim == 2:
            pictures |= {"manifold": viewer.manifold(), "latents": viewer.latents()}
        for name, picture in pictures.items():
            png = runs.save_picture(Path(trainer.logger.save_dir) / "pictures" / f"{name}.png", picture)
            image = Summary.Image(height=picture.height, width=picture.width, encoded_image_string=png)
            writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)  # encoded once
        kl, _ = viewer.information
        writer.add_histogram("latents/kl_per_dimension", kl, step)


def describe(data: str, module: LightningModule, values: dict[str, Tensor], epoch: int) -> str:
    """One line: data set, network, latent dimensions, likelihood, what it has reached."""
    network = getattr(module.encoder.network, "network", module.encoder.network)  # that inside a conditional one
    kind = type(network).__name__.removesuffix("Encoder").lower()
    split = "val" if "val/neg_elbo" in values else "train"
    reached = f"{split} -ELBO {float(values[f'{split}/neg_elbo']):.2f} nats" if f"{split}/neg_elbo" in values else ""
    parts = (data, f"{kind} with {module.latent_dim} latents", module.decoder.description, reached, f"epoch {epoch}")
    return ", ".join(part for part in parts if part)
