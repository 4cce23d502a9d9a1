"""The page beside an exported model: what it is, its data, its numbers, how to load it."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from vae_lightning import __version__

if TYPE_CHECKING:
    from vae_lightning.exporting import File
    from vae_lightning.module import VAE
    from vae_lightning.weights import Stored

NUMBERS = ("nll", "nll_se", "log_normalizer", "neg_elbo", "recon", "kl", "active_units")
LOAD = {
    "onnx": """\
import numpy as np
import onnxruntime

decoder = onnxruntime.InferenceSession("decoder.onnx")
z = np.random.default_rng(0).normal(size=(4, {latent_dim})).astype(np.float32)
(image,) = decoder.run(None, {{"z": z{label}}})
""",
    "torch_export": """\
import torch

decoder = torch.export.load("decoder.pt2").module()
z = torch.randn(4, {latent_dim}, generator=torch.Generator().manual_seed(0))
(image,) = decoder(z=z{label})
""",
    "safetensors": """\
from vae_lightning import load_run

run = load_run("model.safetensors")
image = run.sample(4{label})
""",
}
LABEL = {
    "onnx": ', "label": np.arange(4)',
    "torch_export": ", label=torch.arange(4)",
    "safetensors": ", label=3",
}
SAMPLE = {
    "StandardNormalPrior": "Samples of the model are decoder(z) for z from the prior, N(0, I).",
    "": "Samples of the model are decoder(z) for z from the prior, which is not N(0, I) and is not among the graphs:"
    " load_run of vae_lightning draws them, from the run folder or from the file that format=safetensors writes.",
}


def text(
    stored: "Stored", cfg: DictConfig, records: Mapping[str, Mapping[str, object]], files: Sequence["File"]
) -> str:
    """The card, in Markdown."""
    shape = list(stored.cfg.data.image_shape)
    label = LABEL[cfg.format] if stored.module.classes else ""
    code = LOAD[cfg.format].format(latent_dim=stored.module.latent_dim, label=label)
    where = f"with vae_lightning {__version__} installed, " if cfg.format == "safetensors" else ""
    lines = [f"# Variational autoencoder of {stored.cfg.data.name}", "", "## What", "", *what(stored), ""]
    lines += ["## Data", "", *data(stored), ""]
    lines += ["## Numbers", "", *numbers(stored, records), ""]
    lines += ["## Files", "", "| file | holds | largest difference to the module |", "|---|---|---|"]
    lines += [f"| {file.path.name} | {file.says} | {file.difference:.1e} |" for file in files]
    lines += ["", "Compared in float32 at batches of 1, 2 and 7 images or latent vectors.", ""]
    if cfg.format != "safetensors":
        lines += [*legend(stored.module, shape, {file.path.stem for file in files}), ""]
    return "\n".join(
        [
            *lines,
            "## Load",
            "",
            f"In this folder, {where}after `{install(cfg.format)}`:",
            "",
            "```python",
            code + "```",
            "",
        ]
    )


def what(stored: "Stored") -> list[str]:
    """Architecture and origin."""
    cfg, module = stored.cfg, stored.module
    names = {key: cfg[key]["_target_"].rpartition(".")[2] for key in ("posterior", "likelihood", "prior", "objective")}
    sizes = {key: cfg.model[key] for key in ("hidden_dims", "widths", "blocks", "activation") if key in cfg.model}
    network = cfg.model.encoder["_target_"].rpartition(".")[2]
    return [
        f"- encoder {network}, decoder {cfg.model.decoder['_target_'].rpartition('.')[2]}"
        + "".join(f", {key} {value}" for key, value in sizes.items()),
        f"- latent dimensions {module.latent_dim}, parameters {sum(p.numel() for p in module.parameters()):,}",
        f"- q(z|x) {names['posterior']}, p(z) {names['prior']}, objective {names['objective']}",
        f"- p(x|z) {names['likelihood']}: {module.decoder.description}",
        f"- told the label: {f'yes, 0 to {module.classes - 1}' if module.classes else 'no'}",
        f"- weights of {stored.checkpoint}.ckpt, optimiser step {stored.step}, seed {cfg.seed}",
        f"- exported by vae_lightning {__version__}, torch {version('torch')}",
    ]


def data(stored: "Stored") -> list[str]:
    """What it was trained on, and what its inputs have to be like."""
    node = stored.cfg.data
    instead = f", not {node.instead_of}, whose files were not there" if node.get("instead_of") else ""
    channels, height, width = node.image_shape
    return [
        f"- trained on {node.name}{instead}; {node.val_size:,} of its training images were kept for validation",
        f"- images: {channels} channel, {height} x {width} pixels, float32 from 0 to 1 (byte / 255)",
        f"- binarization: {node.binarization}",
    ]


def numbers(stored: "Stored", records: Mapping[str, Mapping[str, object]]) -> list[str]:
    """Those of this checkpoint: what the other one came to says nothing of it."""
    found = {}
    metrics, evaluation = records["metrics"], records["evaluation"]
    if metrics.get("checkpoint") == stored.checkpoint:
        found |= {name: value for name, value in metrics.items() if name.startswith(("val/", "test/"))}
    if evaluation.get("checkpoint") == stored.checkpoint:
        found |= {
            f"{name} (evaluate, {evaluation['samples']} samples)": evaluation[name]
            for name in NUMBERS
            if name in evaluation
        }
    if not found:
        return [f"None were recorded of {stored.checkpoint}.ckpt: `python -m vae_lightning.evaluate` measures them."]
    rows = [
        f"| {name} | {value:.4f} |" if isinstance(value, float) else f"| {name} | {value} |"
        for name, value in found.items()
    ]
    revision = f" Trained by revision {metrics['revision']}." if metrics.get("revision") else ""
    return [f"Nats per image.{revision}", "", "| | |", "|---|---|", *rows]


def legend(module: "VAE", shape: Sequence[int], names: set[str]) -> list[str]:
    """What goes in and comes out of the graphs."""
    channels, height, width = shape
    size = f"(B, {module.latent_dim})"
    lines = [f"- x, image: (B, {channels}, {height}, {width}), float32; image is the mean of p(x|z)"]
    lines += [f"- z, noise, mean, std: {size}, float32; noise from N(0, I) makes z a draw from q(z|x)"]
    if module.classes:
        lines += [f"- label: (B,), int64, 0 to {module.classes - 1}"]
    if "encoder" not in names:
        lines += ["- There is no encoder: mean and std of a flow have no closed form; they are those of many draws z."]
    elif type(module.encoder).__name__ == "FullNormalPosterior":
        lines += ["- std is that of each coordinate; q(z|x) has correlations too, which sampler draws with."]
    prior = type(module.prior).__name__
    return [*lines, f"- {SAMPLE.get(prior, SAMPLE[''])}"]


def install(form: str) -> str:
    """The command that installs what loading needs."""
    name = {"onnx": "onnxruntime", "torch_export": "torch", "safetensors": "safetensors"}[form]
    return f"pip install {name}=={version(name).partition('+')[0]}"
