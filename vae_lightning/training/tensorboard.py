"""What a run writes for TensorBoard beside scalars: hyperparameters and the projector."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig
from torch import Tensor

from vae_lightning.config.compose import TRAINING_GROUPS
from vae_lightning.config.dotted import leaves
from vae_lightning.data.images import ImageData
from vae_lightning.data.shown import shown_count, shown_images, visible
from vae_lightning.storage.run_folder import of_run, read_choices, to_dict
from vae_lightning.training.loggers import OncePerStep
from vae_lightning.training.module import VAE

# not compared in TensorBoard: the same in other words, or without effect on a result
UNCOMPARED_KEYS = (
    "encoder",
    "decoder",
    "network",
    "dataset",
    "root",
    "mirrors",
    "sha256",
    "in_memory",
    "options",
    "fallback",
    "image_shape",
    "trust",
    "resume",
    "from_config",
    "accelerator",
    "callbacks",
    "logger",
    "devices",
    "steps_per_execution",
    "compile",
    "threads",
    "profiler",
    "default_root_dir",
    "enable_progress_bar",
    "enable_model_summary",
    "log_every_n_steps",
)
FOLDER = "tensorboard"  # in a run folder
END_SUFFIX = ".end"  # of the file that records how the run ended
EMBEDDED_IMAGES = 1000  # test images in the embedding projector
EMBEDDED_VALUES = 500_000  # coordinates of all of them, which are stored as text
THUMBNAIL_SIDE = 64  # pixels; TensorBoard shows no sheet of more than 8192 pixels along a side


class ScalarLogger(OncePerStep, TensorBoardLogger):
    """TensorBoard; writes into tensorboard/ of the run.

    TensorBoard hides what was written before from the step on at which a resumed run continues.

    Args:
        run, state, first_step: see OncePerStep.
    """

    def __init__(self, run: Path, state: Mapping[str, Any], first_step: int | None) -> None:
        super().__init__(
            run, name=FOLDER, version="", default_hp_metric=False, purge_step=first_step
        )

    def flush(self) -> None:
        """Writes the values to the file."""
        self.experiment.flush()


def logger_of(trainer: Trainer) -> ScalarLogger | None:
    """The logger for TensorBoard; None if the run has none."""
    found = (each for each in trainer.loggers if isinstance(each, ScalarLogger))
    return next(found, None)


def compared_values(cfg: DictConfig, run: Path) -> dict[str, object]:
    """The chosen option of each group, and dotted key -> value of all options that may differ.

    The data set is ``data.name``, which says what was used.
    """
    choices = read_choices(run)
    chosen: dict[str, object] = {
        group: choices[group] for group in TRAINING_GROUPS if group in choices
    }
    return chosen | flatten(to_dict(of_run(cfg)))


@rank_zero_only
def begin_hparams(cfg: DictConfig, trainer: Trainer, run: Path) -> None:
    """Lists the chosen option of each group, and all values, for TensorBoard's HPARAMS tab.

    The list is written when the run begins, so that a failed run is listed too. No list of columns
    is written: TensorBoard would use that of one run for all runs. Without one, it shows what
    differs between the runs first, and takes the metrics from their scalars. A sweep writes one
    list for all of its jobs.
    """
    from torch.utils.tensorboard.summary import hparams

    logger = logger_of(trainer)
    if logger is not None:
        _, session, _ = hparams(compared_values(cfg, run), {})
        logger.experiment.file_writer.add_summary(session)


@rank_zero_only
def end_hparams(trainer: Trainer, status: str) -> None:
    """Records in TensorBoard how the run ended: SUCCESS or FAILURE.

    The record has a file of its own, because TensorBoard shows the first one that it finds.
    """
    from tensorboard.plugins.hparams import metadata
    from torch.utils.tensorboard import SummaryWriter

    logger = logger_of(trainer)
    if logger is None:
        return
    number = messages("plugins.hparams.api").Status.Value(f"STATUS_{status}")
    end = messages("plugins.hparams.plugin_data").SessionEndInfo(status=number)
    summary = hparams_summary(metadata.SESSION_END_INFO_TAG, session_end_info=end)
    # Lightning closes its own writer when a run fails
    with SummaryWriter(logger.log_dir, filename_suffix=END_SUFFIX) as writer:
        assert writer.file_writer is not None
        writer.file_writer.add_summary(summary)


def messages(name: str) -> Any:  # noqa: ANN401 - protobuf defines the classes at run time
    """A module of TensorBoard with classes of protobuf."""
    return importlib.import_module(f"tensorboard.{name}_pb2")


def hparams_summary(tag: str, **content: object) -> Any:  # noqa: ANN401 - see messages
    """A summary for the HPARAMS tab, which ``SummaryWriter`` writes."""
    from tensorboard.plugins.hparams import metadata

    data = messages("plugins.hparams.plugin_data").HParamsPluginData(
        version=metadata.PLUGIN_DATA_VERSION, **content
    )
    proto = messages("compat.proto.summary")
    plugin = proto.SummaryMetadata.PluginData(
        plugin_name="hparams", content=data.SerializeToString()
    )
    metadata_of_tag = proto.SummaryMetadata(plugin_data=plugin)
    return proto.Summary(value=[proto.Summary.Value(tag=tag, metadata=metadata_of_tag)])


def remove_end(run: Path) -> None:
    """Removes the record of how a run ended, because it continues."""
    for path in (run / FOLDER).glob(f"*{END_SUFFIX}"):
        path.unlink()


def write_embedding(trainer: Trainer, module: VAE, data: ImageData) -> None:
    """Posterior means with their images for the embedding projector.

    They are fewer than EMBEDDED_IMAGES if the images are large or the latent dimensions many.
    """
    logger = logger_of(trainer)
    if logger is None:
        return
    count = min(shown_count(EMBEDDED_IMAGES, data.pixels), EMBEDDED_VALUES // module.latent_dim)
    images, condition, labels = shown_images(data, max(1, count))
    with torch.no_grad():
        means = module.eval().to(images.device).encoder(images, condition).mean
    means = F.pad(
        means, (0, max(0, 3 - module.latent_dim))
    )  # the projector shows nothing of fewer than 3 dimensions
    logger.experiment.add_embedding(
        means, labels.tolist(), thumbnails(images), trainer.global_step, "posterior_means"
    )


def thumbnails(images: Tensor) -> Tensor:
    """Images (N, C, H, W) as TensorBoard requires them: (N, 1 or 3, S, S), square and small.

    The images are centered on white squares. S is the longer side, or THUMBNAIL_SIDE if it is
    longer than that.
    """
    shown = visible(images)
    height, width = shown.shape[-2:]
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    borders = (left, side - width - left, top, side - height - top)
    square = F.pad(shown, borders, value=1.0)
    return F.interpolate(square, THUMBNAIL_SIDE, mode="area") if side > THUMBNAIL_SIDE else square


def flatten(node: Mapping[str, object]) -> dict[str, object]:
    """Dotted key -> value of the values that may be compared, without classes and null."""
    return {
        key: str(value) if isinstance(value, list) else value
        for key, value in leaves(node)
        if isinstance(value, int | float | str | list) and is_compared(key.split("."))
    }


def is_compared(path: Sequence[str]) -> bool:
    """Whether a key may differ in a way that changes a result, and names no class."""
    return not path[-1].startswith("_") and not set(path) & set(UNCOMPARED_KEYS)
