"""A callback that draws pictures during training and warns about posterior collapse."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue] - protobuf defines it at run time
from torch import Tensor

from vae_lightning.checks.errors import NotFinite
from vae_lightning.checks.ranges import Integer, Number, Option
from vae_lightning.data.images import image_data
from vae_lightning.data.shown import shown_count, shown_images
from vae_lightning.evaluation.latents import active_units, posterior_means
from vae_lightning.plots import canvas
from vae_lightning.plots.views import Viewer
from vae_lightning.storage.run_folder import write_alarm
from vae_lightning.training.finite import ADVICE
from vae_lightning.training.module import VAE
from vae_lightning.training.summary import describe
from vae_lightning.training.tensorboard import logger_of

log = logging.getLogger(__name__)

MAX_PICTURE_BYTES = 20_000_000  # in the files of TensorBoard
# a collapsed posterior has almost no KL; a posterior with more nats per image is far from the prior
DIVERGED_KL = 1000.0
CHARTS = {
    "ELBO terms": {
        "recon and KL": ["Multiline", ["train/recon", "val/recon", "train/kl", "val/kl"]],
        "-ELBO": ["Multiline", ["train/neg_elbo", "val/neg_elbo"]],
    }
}


class Gallery(Callback):
    """Draws pictures and latent statistics during training, for TensorBoard and for pictures/.

    Pictures that have no meaning for a model or for a single image are left out. Of large images,
    fewer than ``images`` are used, so that they fit into memory.
    The test images and the noise are the same at every epoch, so that successive pictures show
    the progress of the training and nothing else. The active units are counted on all test images,
    as ``evaluate`` does.

    Args:
        every_n_epochs: number of epochs between pictures; the last epoch is always drawn. In a long
            run TensorBoard gets fewer of them, so that its files stay below 30 MB.
        images: number of test images for the pictures and the KL of each latent dimension.
        collapse_below: raise the alarm if a smaller fraction of the latent dimensions is active.
    """

    def __init__(
        self,
        every_n_epochs: Annotated[
            int, Option("epochs between pictures; the last epoch is always drawn", Integer(1))
        ],
        images: Annotated[int, Option("test images for the pictures of latents", Integer(2))],
        collapse_below: Annotated[
            float,
            Option(
                "warn if a smaller fraction of latent dimensions is active", Number(least=0, most=1)
            ),
        ],
    ) -> None:
        self.every_n_epochs = every_n_epochs
        self.images = images
        self.collapse_below = collapse_below
        self.alarm: str | None = None
        self.bytes_per_epoch = 0  # of the pictures of the first epoch that was drawn

    def state_dict(self) -> dict[str, object]:
        """What a resumed run goes on with: the alarm, and the size of the pictures."""
        return {"alarm": self.alarm, "bytes_per_epoch": self.bytes_per_epoch}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """The state of the run that goes on."""
        alarm, size = state_dict["alarm"], state_dict["bytes_per_epoch"]
        assert alarm is None or isinstance(alarm, str)
        assert isinstance(size, int)
        self.alarm, self.bytes_per_epoch = alarm, size

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds TensorBoard charts that show recon and KL of both splits together."""
        logger = logger_of(trainer)
        if trainer.is_global_zero and logger is not None:
            logger.experiment.add_custom_scalars(CHARTS)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the active units, checks for collapse and draws the pictures of this epoch.

        Every rank logs the active units, because Lightning expects a logged value on every rank.
        """
        assert isinstance(pl_module, VAE)
        viewer = self.viewer(trainer, pl_module)
        epoch = trainer.current_epoch + 1
        pl_module.eval()
        with torch.no_grad():
            active = active_units(posterior_means(pl_module, image_data(trainer), "test"))
            pl_module.log("latents/active_units", float(active), batch_size=1)
            if trainer.is_global_zero:
                self.check_latents(trainer, active, viewer)
                is_last = epoch == trainer.max_epochs or trainer.should_stop
                if epoch % self.every_n_epochs == 0 or is_last:
                    self.draw(trainer, viewer)
        pl_module.train()

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the active units of the tested weights, for metrics.json; checks for collapse."""
        assert isinstance(pl_module, VAE)
        active = active_units(posterior_means(pl_module, image_data(trainer), "test"))
        # not for TensorBoard, which has a value for the last epoch already
        pl_module.log("latents/active_units", float(active), batch_size=1, logger=False)
        if trainer.is_global_zero:
            self.check_latents(trainer, active, self.viewer(trainer, pl_module))

    def viewer(self, trainer: Trainer, module: VAE) -> Viewer:
        """Returns what draws some test images; nothing is computed yet."""
        data = image_data(trainer)
        images, _, labels = shown_images(data, shown_count(self.images, data.pixels))
        reached = progress(trainer.callback_metrics, trainer.current_epoch + 1)
        subtitle = f"{describe(str(data.name), module)}, {reached}"
        return Viewer(module, images, labels, subtitle, class_names=data.class_names)

    def check_latents(self, trainer: Trainer, active: int, viewer: Viewer) -> None:
        """Raises the alarm if few latent dimensions are active; withdraws it after recovery."""
        if len(viewer.images) == 1:  # no unit varies over a single image
            return
        information = viewer.information[0]
        latent_dim = len(information)
        found = describe_active(active, latent_dim)
        few = active < self.collapse_below * latent_dim
        before = self.alarm
        self.alarm = few_active(found, float(information.sum())) if few else None
        if self.alarm == before:
            return
        if before is None:
            log.warning("%s", self.alarm)
        elif self.alarm is None:
            log.info("the warning is withdrawn: %s", found)
        write_alarm(Path(trainer.default_root_dir), self.alarm)

    def draw(self, trainer: Trainer, viewer: Viewer) -> None:
        """Draws all views of this epoch and logs the KL divergence per latent dimension."""
        logger, folder = logger_of(trainer), Path(trainer.default_root_dir)
        step = trainer.global_step - 1  # the step to which Lightning assigns its scalars
        kl, _ = viewer.information
        if not bool(kl.isfinite().all()):
            raise NotFinite(
                f"the information of a latent dimension is not finite in epoch"
                f" {trainer.current_epoch + 1} on the test images; {ADVICE}"
            )
        pictures = {
            "reconstructions": viewer.reconstructions(),
            "samples": viewer.samples(),
            "traversals": viewer.traversals(),
            "kl_per_dimension": viewer.kl_bars(),
        }
        if viewer.module.latent_dim == 2:
            pictures["manifold"] = viewer.manifold()
            if len(viewer.images) > 1:
                pictures["latents"] = viewer.latents()
        values = []
        for name, content in pictures.items():
            picture = canvas.draw(content)
            png = canvas.save_png(folder / "pictures" / f"{name}.png", picture)
            # add_image would encode the picture a second time
            image = Summary.Image(
                height=picture.height, width=picture.width, encoded_image_string=png
            )
            values.append(Summary.Value(tag=name, image=image))
        if logger is None:
            return
        writer = logger.experiment
        if self.is_shown(trainer, sum(len(each.image.encoded_image_string) for each in values)):
            writer.file_writer.add_summary(Summary(value=values), step)
        # TensorBoard has no bins beyond 1e20
        writer.add_histogram("latents/kl_per_dimension", kl.clamp(max=1e19), step)

    def is_shown(self, trainer: Trainer, size: int) -> bool:
        """Whether TensorBoard gets the pictures of this epoch, which have ``size`` bytes."""
        epoch, epochs = trainer.current_epoch + 1, trainer.max_epochs
        assert epochs is not None
        is_first = not self.bytes_per_epoch
        self.bytes_per_epoch = self.bytes_per_epoch or size
        spacing = math.ceil(epochs * self.bytes_per_epoch / MAX_PICTURE_BYTES)
        spacing = self.every_n_epochs * math.ceil(spacing / self.every_n_epochs)
        if is_first and spacing > self.every_n_epochs:
            log.info(
                "pictures: TensorBoard gets those of every %d epochs, so that its files stay small;"
                " pictures/ has those of the last epoch",
                spacing,
            )
        return is_first or epoch % spacing == 0 or epoch == epochs


def describe_active(active: int, latent_dim: int) -> str:
    """How many latent dimensions are active, as in ``1 of 16 latent dimensions is active``."""
    return f"{active} of {latent_dim} latent dimensions {'is' if active == 1 else 'are'} active"


def few_active(found: str, kl: float) -> str:
    """The alarm about few active latent dimensions, with what may help, given the KL in nats."""
    if kl > DIVERGED_KL:
        return (
            f"the training has diverged: {found}, and the KL is {kl:.3g} nats per image; {ADVICE}"
        )
    return (
        f"posterior collapse: {found}; try annealing=linear, objective=free_bits, a smaller"
        " objective.beta, or a weaker decoder"
    )


def progress(values: Mapping[str, Tensor | float], epoch: object) -> str:
    """Text with the epoch and, if it has been measured, the -ELBO."""
    split = "val" if "val/neg_elbo" in values else "train"
    if f"{split}/neg_elbo" not in values:
        return f"epoch {epoch}"
    return f"{split} -ELBO {float(values[f'{split}/neg_elbo']):.2f} nats, epoch {epoch}"
