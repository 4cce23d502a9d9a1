"""What a run ends with: the test, metrics.json, the hyper-parameters in TensorBoard, the final table."""

import logging
import platform
import shlex
import statistics
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from vae_lightning import runs
from vae_lightning.callbacks import Recorder
from vae_lightning.config import own_part
from vae_lightning.data import ImageData
from vae_lightning.distributions import bits_per_dim
from vae_lightning.module import VAE
from vae_lightning.trainers import build_trainer

log = logging.getLogger(__name__)

PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "omegaconf", "numpy", "vae_lightning")
# not shown beside each other in TensorBoard: the same in other words, or of no effect on a result
UNCOMPARED = (
    *("encoder", "decoder", "network", "dataset", "root", "mirrors", "fallback", "image_shape", "trust", "resume"),
    *("accelerator", "callbacks", "devices", "steps_per_execution", "compile"),
)
EMBEDDED = 1000  # test images in the embedding projector
TERMS = ("recon", "kl", "neg_elbo")


def conclude(cfg: DictConfig, trainer: Trainer, module: VAE, data: ImageData, run: Path) -> None:
    """Tests best.ckpt on one device and writes metrics.json, TensorBoard's last values and the final table."""
    recorder = next(callback for callback in trainer.callbacks if isinstance(callback, Recorder))
    module.load_state_dict(torch.load(run / runs.BEST, weights_only=True, map_location="cpu")["state_dict"])
    tester = build_trainer(cfg)
    (test,) = tester.test(module, data, verbose=False)
    best = recorder.best()
    rows = recorder.rows[1:] or recorder.rows  # the first epoch also warms up
    metrics = {name: value for name, value in best.items() if "/" in name} | test
    metrics |= {
        "data": data.name,
        "likelihood": module.decoder.description,
        "kl_estimate": describe_kl(module, data),
        "checkpoint": "best",
        "epoch": int(best["epoch"]),
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "training_seconds": sum(row["seconds"] for row in recorder.rows),
        "seconds_per_epoch": statistics.median(row["seconds"] for row in rows),
        "images_per_second": statistics.median(row["images_per_second"] for row in rows),
        "versions": ", ".join(
            [f"python {platform.python_version()}", *(f"{name} {version(name)}" for name in PACKAGES)]
        ),
        "revision": revision(),
        "device": device_name(tester.strategy.root_device),
    }
    if getattr(module.decoder, "discrete", False):
        metrics["test/bits_per_dim"] = bits_per_dim(metrics["test/neg_elbo"], data.pixels)
    runs.write_json(run / "metrics.json", metrics)
    write_tensorboard(trainer, module, data, test)
    print(table(cfg, metrics, data, run))


def revision() -> str | None:
    """The commit of the checkout that this code runs from, with -dirty if it was changed; None outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        log.warning("the revision is not recorded: %s", error)
        return None


def device_name(device: torch.device) -> str:
    """The device as one would name it in a table."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.get_num_threads()} threads)" if device.type == "cpu" else device.type


@rank_zero_only
def begin_hparams(cfg: DictConfig, trainer: Trainer) -> None:
    """Lists hyper-parameters and final metrics for TensorBoard, which takes their values from the run's scalars.

    Written when a run begins: so it is the same for one that fails, and no metric has a made-up value before its time.
    """
    from torch.utils.tensorboard.summary import hparams

    splits = ("test", "val", "train") if cfg.data.val_size else ("test", "train")  # the first columns are shown
    scores = {f"{split}/{term}": 0.0 for split in splits for term in ("neg_elbo", "recon", "kl", "loss")}
    experiment, session, _ = hparams(flatten(OmegaConf.to_container(own_part(cfg), resolve=True)), scores)
    for summary in (experiment, session):
        trainer.logger.experiment.file_writer.add_summary(summary)


@rank_zero_only
def end_hparams(trainer: Trainer, status: str) -> None:
    """Says in TensorBoard how the run ended: SUCCESS or FAILURE."""
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.plugins.hparams import api_pb2, metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
    from torch.utils.tensorboard import SummaryWriter

    end = SessionEndInfo(status=api_pb2.Status.Value(f"STATUS_{status}"))
    content = HParamsPluginData(session_end_info=end, version=metadata.PLUGIN_DATA_VERSION).SerializeToString()
    data = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="hparams", content=content))
    summary = Summary(value=[Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=data)])
    with SummaryWriter(trainer.logger.log_dir) as writer:  # Lightning closes its own when a run fails
        writer.file_writer.add_summary(summary)


def write_tensorboard(trainer: Trainer, module: VAE, data: ImageData, test: dict[str, float]) -> None:
    """The test terms as scalars at the last step, and posterior means with their images for the embedding projector."""
    writer, step = trainer.logger.experiment, trainer.global_step
    for name, value in test.items():
        writer.add_scalar(name, value, step)
    images, condition = data.inputs("test", slice(EMBEDDED))
    with torch.no_grad():
        means = module.eval().to(images.device).encoder(images, *condition).mean
    means = F.pad(means, (0, max(0, 3 - module.latent_dim)))  # the projector shows nothing of fewer than 3 dimensions
    writer.add_embedding(means, data.labels["test"][:EMBEDDED].tolist(), images, step, "posterior_means")
    end_hparams(trainer, "SUCCESS")


def flatten(node: dict[str, object], prefix: str = "") -> dict[str, object]:
    """Dotted key -> value for the values that someone may want to compare; classes and nothing are left out."""
    flat: dict[str, object] = {}
    for key, value in node.items():
        if key in UNCOMPARED:
            continue
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        elif isinstance(value, int | float | str | list) and not key.startswith("_"):
            flat[prefix + key] = str(value) if isinstance(value, list) else value
    return flat


def describe_kl(module: VAE, data: ImageData) -> str:
    """How the KL term is computed."""
    images, condition = data.inputs("train", slice(1))
    exact = module.to(images.device).kl_is_exact(images, *condition)
    return "closed form" if exact else f"Monte Carlo, samples of an image: {module.objective.num_samples}"


def describe_data(cfg: DictConfig, data: ImageData) -> str:
    """The images that were used, by their true name, and that they are a fallback if they are."""
    sizes = ", ".join(f"{data.images_in(split):,} {split}" for split in ("train", "val", "test"))
    instead = f"; NOT {cfg.data.instead_of}, whose files were not found" if cfg.data.get("instead_of") else ""
    return f"{data.name} ({sizes}){instead}"


def table(cfg: DictConfig, metrics: dict[str, object], data: ImageData, run: Path) -> str:
    """The final table."""
    lines = ["", f"{'nats per image':<14}{'recon':>12}{'KL':>12}{'-ELBO':>12}"]
    for split, name in (("val", "validation"), ("test", "test")):
        if f"{split}/recon" in metrics:
            lines.append(f"{name:<14}" + "".join(f"{metrics[f'{split}/{term}']:>12.3f}" for term in TERMS))
    lines += [
        "",
        f"data         {describe_data(cfg, data)}",
        f"recon        {metrics['likelihood']}; weights of best.ckpt, epoch {metrics['epoch']}",
        f"KL           {metrics['kl_estimate']}",
        f"speed        {metrics['seconds_per_epoch']:.2f} seconds per epoch on {metrics['device']}",
        f"run folder   {run}",
        f"TensorBoard  tensorboard --logdir {shlex.quote(str(run))}",
    ]
    known = ("train", "val", "test")
    others = [name for name in metrics if ("/" in name and name.split("/")[0] not in known) or "bits" in name]
    return "\n".join(lines + [f"{name:<40} {metrics[name]:.4f}" for name in others])
