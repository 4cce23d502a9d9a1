"""The final metrics and table of a run, and one-line descriptions of model, data and KL."""

import math
import statistics
from collections.abc import Mapping, Sequence

import torch
from omegaconf import DictConfig

from vae_lightning.checks.errors import counted
from vae_lightning.data.fingerprint import is_published
from vae_lightning.data.images import ImageData
from vae_lightning.distributions import bits_per_dim, layer_kl_divergences
from vae_lightning.networks import UNCONDITIONAL, Condition
from vae_lightning.training.module import VAE

Row = Mapping[str, float]


def final_metrics(
    module: VAE,
    data: ImageData,
    rows: Sequence[Row],
    best: Row,
    test: Row,
    device: torch.device,
    environment: Mapping[str, object],
) -> dict[str, object]:
    """The content of metrics.json: the terms of best.ckpt, and what they were computed with.

    ``environment`` is what the run recorded when it started: the code may have changed since then.
    """
    whole = [row for row in rows if "images_per_second" in row]  # not validations within epochs
    warm = whole[1:] or whole  # the first epoch also warms up
    selected_by = f"val/{module.selected_by}"
    metrics: dict[str, object] = {name: value for name, value in best.items() if "/" in name}
    metrics |= test
    metrics |= {
        "data": data.name,
        "likelihood": module.decoder.description,
        "log_normalizer": log_normalizer(module),
        "kl_estimate": describe_kl(module, data),
        "checkpoint": "best",
        "selected_by": selected_by if selected_by in best else "the last epoch",
        "epoch": best["epoch"],
        "test_images": data.used_images("test"),
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "training_seconds": sum(row["seconds"] for row in rows),
        "seconds_per_epoch": statistics.median(seconds_per_epoch(warm, rows)),
        "images_per_second": statistics.median(row["images_per_second"] for row in warm),
        "versions": environment["versions"],
        "revision": environment["revision"],
        "device": device_name(device),
        "threads": torch.get_num_threads(),
    }
    if module.skip_gradient_above is not None:
        metrics["skipped_steps"] = module.skipped_steps
    if getattr(module.decoder, "discrete", False):
        metrics["test/bits_per_dim"] = bits_per_dim(test["test/neg_elbo"], data.pixels)
    return metrics


def seconds_per_epoch(epochs: Sequence[Row], rows: Sequence[Row]) -> list[float]:
    """The seconds of these epochs, each with those of the rows within it."""
    seconds: dict[int, float] = {}
    for row in rows:
        epoch = math.ceil(row["epoch"])
        seconds[epoch] = seconds.get(epoch, 0.0) + row["seconds"]
    return [seconds[math.ceil(row["epoch"])] for row in epochs]


@torch.no_grad()
def log_normalizer(module: VAE) -> float:
    """The constant in nats that recon of the likelihood omits."""
    z = torch.zeros(1, 1, module.latent_dim, device=module.device)
    labels = Condition(z.new_zeros(1, dtype=torch.int64)) if module.classes else UNCONDITIONAL
    return float(module.decoder(z, labels).log_normalizer)


def device_name(device: torch.device) -> str:
    """The name of a device in a table."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    return f"cpu ({counted(torch.get_num_threads(), 'thread')})"


def describe(data: str, module: VAE) -> str:
    """A model in a line, for titles and logs: data set, network, latent dimensions, likelihood."""
    network = getattr(
        module.encoder.network, "network", module.encoder.network
    )  # that inside a conditional one
    kind = type(network).__name__.removesuffix("Encoder").lower()
    return f"{data}, {kind} with {module.latent_dim} latents, {module.decoder.description}"


@torch.no_grad()
def describe_kl(module: VAE, data: ImageData) -> str:
    """How the KL term is computed: see ``Terms.kl``."""
    images, condition = data.inputs("train", slice(1))
    module = module.to(images.device)
    if module.kl_is_exact(images, condition):
        return "closed form"
    q, p = module.encoder(images, condition), module.prior(module.encoder)
    z = q.transform(images.new_zeros(1, 1, module.latent_dim))
    has_layers = bool(layer_kl_divergences(q, p, z))
    how = "closed form of each layer given those above" if has_layers else "Monte Carlo"
    return f"{how}, samples of an image: {module.objective.num_samples}"


def describe_data(cfg: DictConfig, data: ImageData) -> str:
    """The images that are used, with a remark if they are not what their name says."""
    sizes = ", ".join(f"{amount(data, split)} {split}" for split in ("train", "val", "test"))
    instead = (
        f"; NOT {cfg.data.instead_of}, whose files were not found"
        if cfg.data.get("instead_of")
        else ""
    )
    other = "" if is_published(str(data.name), data.parts) else "; not the published files"
    return f"{data.name} ({sizes}){instead}{other}"


def amount(data: ImageData, split: str) -> str:
    """The number of images of a split, and how many of them are used if not all are."""
    used, images = data.used_images(split), data.images_in(split)
    return f"{images:,}" if used == images else f"{used:,} of {images:,}"
