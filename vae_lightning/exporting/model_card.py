"""The card of an exported model: architecture, data, metrics, files and how to load them."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from vae_lightning.checks.errors import counted
from vae_lightning.version import __version__

if TYPE_CHECKING:
    from vae_lightning.exporting.graphs import File
    from vae_lightning.runs.run import Run
    from vae_lightning.training.module import VAE

EVALUATION_NUMBERS = (
    *("nll", "nll_se", "gray_cross_entropy", "gray_cross_entropy_se", "log_normalizer"),
    *("neg_elbo", "recon", "kl", "active_units"),
)
LOADING_CODE = {
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
image = decoder(z{label})
""",
    "safetensors": """\
from vae_lightning import load_run

run = load_run("model.safetensors")
image = run.sample(4{label})
""",
}
LABEL_ARGUMENT = {
    "onnx": ', "label": np.arange(4)',
    "torch_export": ", torch.arange(4)",
    "safetensors": ", label=3",
}
SAMPLING_NOTE = {
    "StandardNormalPrior": "To sample from the model, draw z from the prior N(0, I) and decode it.",
    "": "To sample from the model, draw z from the prior and decode it. The prior is not N(0, I)"
    " and is not exported as a graph: use load_run of vae_lightning with the run folder or with the"
    " file that format=safetensors writes.",
}


def text(
    run: "Run",
    cfg: DictConfig,
    records: Mapping[str, Mapping[str, object]],
    files: Sequence["File"],
) -> str:
    """The card as Markdown."""
    shape = list(run.cfg.data.image_shape)
    label = LABEL_ARGUMENT[cfg.format] if run.module.classes else ""
    code = LOADING_CODE[cfg.format].format(latent_dim=run.module.latent_dim, label=label)
    requirement = (
        f"with vae_lightning {__version__} installed, " if cfg.format == "safetensors" else ""
    )
    lines = [
        f"# Variational autoencoder of {run.cfg.data.name}",
        "",
        "## Model",
        "",
        *describe_model(run),
        "",
    ]
    lines += ["## Data", "", *describe_data(run), ""]
    lines += ["## Metrics", "", *metrics_table(run, records), ""]
    lines += [
        "## Files",
        "",
        "| file | content | largest difference from the module |",
        "|---|---|---|",
    ]
    lines += [
        f"| {file.path.name} | {file.description} | {file.difference:.1e} |" for file in files
    ]
    lines += ["", "Compared in float32 at batch sizes 1, 2 and 7.", ""]
    if cfg.format != "safetensors":
        lines += [*describe_tensors(run.module, shape, {file.path.stem for file in files}), ""]
    return "\n".join(
        [
            *lines,
            "## Load",
            "",
            f"In this folder, {requirement}after `{install_command(cfg.format)}`:",
            "",
            "```python",
            code + "```",
            "",
        ]
    )


def describe_model(run: "Run") -> list[str]:
    """Architecture, weights and versions."""
    cfg, module = run.cfg, run.module
    names = {
        key: cfg[key]["_target_"].rpartition(".")[2]
        for key in ("posterior", "likelihood", "prior", "objective")
    }
    sizes = {
        key: cfg.model[key]
        for key in ("hidden_dims", "widths", "blocks", "activation")
        if key in cfg.model
    }
    network = cfg.model.encoder["_target_"].rpartition(".")[2]
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return [
        f"- encoder {network}, decoder {cfg.model.decoder['_target_'].rpartition('.')[2]}"
        + "".join(f", {key} {value}" for key, value in sizes.items()),
        f"- latent dimensions {module.latent_dim}, parameters {parameters:,}",
        f"- q(z|x) {names['posterior']}, p(z) {names['prior']}, objective {names['objective']}",
        f"- p(x|z) {names['likelihood']}: {module.decoder.description}",
        f"- conditional: {f'yes, {module.classes} classes' if module.classes else 'no'}",
        f"- weights of {run.checkpoint}.ckpt, optimizer step {run.step}, seed {cfg.seed}",
        f"- exported by vae_lightning {__version__}, torch {version('torch')}",
    ]


def describe_data(run: "Run") -> list[str]:
    """The training data and the required format of the input images."""
    node = run.cfg.data
    substitute = ""
    if node.get("instead_of"):
        substitute = f" as a substitute for {node.instead_of}, whose files were not available"
    size = node.val_size  # a number, a fraction, or null
    held_out = "a tenth" if size is None else f"{size:.0%}" if 0 < size < 1 else f"{size:,}"
    channels, height, width = node.image_shape
    return [
        f"- trained on {node.name}{substitute}; {held_out} of its training images were held out for"
        " validation",
        f"- images: {counted(channels, 'channel')}, {height} x {width} pixels, float32 in [0, 1]"
        " (byte / 255)",
        f"- binarization: {node.binarization}",
    ]


def metrics_table(run: "Run", records: Mapping[str, Mapping[str, object]]) -> list[str]:
    """The recorded metrics of the exported checkpoint; those of another checkpoint are left out."""
    found = {}
    metrics, evaluation = records["metrics"], records["evaluation"]
    if metrics.get("checkpoint") == run.checkpoint:
        found |= {
            name: value for name, value in metrics.items() if name.startswith(("val/", "test/"))
        }
    if evaluation.get("checkpoint") == run.checkpoint:
        found |= {
            f"{name} (evaluate, {evaluation['samples']} samples)": evaluation[name]
            for name in EVALUATION_NUMBERS
            if name in evaluation
        }
    if not found:
        return [
            f"None were recorded for {run.checkpoint}.ckpt. `python -m vae_lightning.evaluate`"
            " measures them."
        ]
    rows = [
        f"| {name} | {value:.4f} |" if isinstance(value, float) else f"| {name} | {value} |"
        for name, value in found.items()
    ]
    revision = f" Trained with revision {metrics['revision']}." if metrics.get("revision") else ""
    return [f"Nats per image.{revision}", "", "| | |", "|---|---|", *rows]


def describe_tensors(module: "VAE", shape: Sequence[int], names: set[str]) -> list[str]:
    """The inputs and outputs of the graphs."""
    channels, height, width = shape
    size = f"(B, {module.latent_dim})"
    lines = [
        f"- x, image: (B, {channels}, {height}, {width}), float32; image is the mean of p(x|z)"
    ]
    lines += [
        f"- z, noise, mean, std: {size}, float32; noise from N(0, I) makes z a sample from q(z|x)"
    ]
    if module.classes:
        lines += [f"- label: (B,), int64, 0 to {module.classes - 1}"]
    if "encoder" not in names:
        lines += [
            "- There is no encoder: mean and std of q(z|x) have no closed form; estimate them from"
            " many samples z."
        ]
    elif type(module.encoder).__name__ == "FullNormalPosterior":
        lines += [
            "- std holds the marginal standard deviations. q(z|x) also has correlations, which the"
            " sampler includes."
        ]
    prior = type(module.prior).__name__
    return [*lines, f"- {SAMPLING_NOTE.get(prior, SAMPLING_NOTE[''])}"]


def install_command(form: str) -> str:
    """The command that installs the package that loading requires."""
    name = {"onnx": "onnxruntime", "torch_export": "torch", "safetensors": "safetensors"}[form]
    return f"pip install {name}=={version(name).partition('+')[0]}"
