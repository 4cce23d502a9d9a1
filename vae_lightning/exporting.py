"""The functions of a model as files: traced for any batch size, written, read back and compared with the model.

Shapes: B images, L latent dimensions, C H W of an image. All in float32, labels int64.
"""

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vae_lightning import cli, rng, weights
from vae_lightning.module import VAE

BATCHES = (1, 2, 7)  # sizes that are compared; 2 is traced, as torch takes a size of 1 for a constant
SUFFIX = {"onnx": ".onnx", "torch_export": ".pt2"}


def given(label: Tensor | None) -> tuple[Tensor, ...]:
    """What encoder and decoder are called with beside x or z."""
    return () if label is None else (label,)


class Encoder(nn.Module):
    """x (B, C, H, W) -> mean and std of q(z|x), (B, L) each; of a full covariance, std is that of each coordinate."""

    name, inputs, outputs = "encoder", ("x",), ("mean", "std")

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.encoder = vae.encoder
        self.strict = True  # the other tracer takes the number of images for a constant under a full covariance

    def forward(self, x: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W) -> mean, std (B, L)."""
        marginals = self.encoder(x, *given(label)).marginals()
        return marginals.mean, marginals.std


class Sampler(nn.Module):
    """x (B, C, H, W), noise (B, L) from N(0, I) -> z (B, L), a draw from q(z|x)."""

    name, inputs, outputs = "sampler", ("x", "noise"), ("z",)

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.encoder = vae.encoder
        self.strict = has_moments(vae)  # torch's strict tracer does not know the transforms of a flow

    def forward(self, x: Tensor, noise: Tensor, label: Tensor | None = None) -> tuple[Tensor]:
        """x (B, C, H, W), noise (B, L) -> z (B, L)."""
        return (self.encoder(x, *given(label)).rsample(noise[None])[0],)


class Decoder(nn.Module):
    """z (B, L) -> the mean of p(x|z), (B, C, H, W)."""

    name, inputs, outputs = "decoder", ("z",), ("image",)

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.decoder = vae.decoder
        self.strict = bool(vae.classes)  # the other, faster tracer takes the number of labels for a constant

    def forward(self, z: Tensor, label: Tensor | None = None) -> tuple[Tensor]:
        """z (B, L) -> image (B, C, H, W)."""
        return (self.decoder(z[None], *given(label)).mean[0],)


Function = Encoder | Sampler | Decoder


class File(NamedTuple):
    """What was written, and how far it is from the model."""

    path: Path
    says: str
    difference: float  # largest |file - model| over the outputs
    relative: float  # of |file - model| / max(1, |model|)


def has_moments(vae: VAE) -> bool:
    """Whether the posterior's mean and std have a closed form."""
    return not getattr(vae.encoder, "sequential", False)


def functions(vae: VAE) -> list[Function]:
    """Those that the model has."""
    kinds = (Encoder, Sampler, Decoder) if has_moments(vae) else (Sampler, Decoder)
    constant = copy.deepcopy(vae).requires_grad_(False)  # so that what comes out of a graph needs no detach()
    return [kind(constant).eval() for kind in kinds]


def arguments(function: Function, vae: VAE, image_shape: Sequence[int], batch: int) -> dict[str, Tensor]:
    """Inputs by name: pixels from 0 to 1, normal noise and z, labels."""
    x = torch.rand(batch, *image_shape, generator=rng.generator("cpu", 0, "export", batch))
    made = {"x": x} | {name: rng.normal((batch, vae.latent_dim), "cpu", 0, "export", name) for name in ("noise", "z")}
    label = {"label": torch.arange(batch) % vae.classes} if vae.classes else {}
    return {name: made[name] for name in function.inputs} | label


def write(stored: weights.Stored, form: str, folder: Path) -> Iterator[File]:
    """Writes the files of a format, each compared when it is there; UsageError for what torch cannot trace."""
    vae, shape = stored.module, list(stored.cfg.data.image_shape)
    if form == "safetensors":
        path = folder / "model.safetensors"
        weights.write_safetensors(path, stored)
        again = weights.read_safetensors(path, stored.cfg.trust).module
        pairs = [(caller(a), b) for a, b in zip(functions(again), functions(vae), strict=True)]
        yield File(path, "weights and configuration", *largest(pairs, vae, shape))
        return
    for function in functions(vae):
        yield write_function(function, stored, form, folder)


def write_function(function: Function, stored: weights.Stored, form: str, folder: Path) -> File:
    """Writes the graph of one function and compares it; UsageError if torch cannot trace it."""
    vae, shape = stored.module, list(stored.cfg.data.image_shape)
    inputs = arguments(function, vae, shape, batch=2)
    path = folder / f"{function.name}{SUFFIX[form]}"
    write_graph(function, inputs, form, path)
    read = read_onnx if form == "onnx" else read_torch
    says = f"{', '.join(inputs)} -> {', '.join(function.outputs)}"
    return File(path, says, *largest([(read(path), function)], vae, shape))


def caller(function: nn.Module) -> Callable[[dict[str, Tensor]], Sequence[Tensor]]:
    """The function, called with its inputs by name."""
    return lambda inputs: function(**inputs)


def write_graph(function: Function, inputs: dict[str, Tensor], form: str, path: Path) -> None:
    """Traces the function for any batch size and writes its graph."""
    batch = torch.export.Dim("batch")
    shapes = {name: {0: batch} for name in inputs}
    try:
        with torch.no_grad():
            program = torch.export.export(function, (), inputs, dynamic_shapes=shapes, strict=function.strict)
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise cli.UsageError(
            f"format={form}: torch cannot trace the {function.name} ({reason}); safetensors can"
        ) from error
    if form == "torch_export":
        # {}: nothing is decomposed, but a flow's autocast regions are inlined: a .pt2 with them cannot be read back
        torch.export.save(program.run_decompositions({}), path)
        return
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # notices about its own defaults
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(program, dynamo=True, verbose=False, output_names=function.outputs).save(path)


def read_torch(path: Path) -> Callable[[dict[str, Tensor]], Sequence[Tensor]]:
    """A .pt2 file as a function of inputs by name."""
    return caller(torch.export.load(path).module())


def read_onnx(path: Path) -> Callable[[dict[str, Tensor]], Sequence[Tensor]]:
    """An .onnx file as a function of inputs by name, by onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def call(inputs: dict[str, Tensor]) -> list[Tensor]:
        return [torch.from_numpy(out) for out in session.run(None, {name: x.numpy() for name, x in inputs.items()})]

    return call


def largest(
    pairs: Sequence[tuple[Callable[[dict[str, Tensor]], Sequence[Tensor]], Function]],
    vae: VAE,
    image_shape: Sequence[int],
) -> tuple[float, float]:
    """The largest absolute and relative difference of (file, function) pairs over BATCHES; NaN if there is one."""
    absolute, relative = [], []
    for call, function in pairs:
        for batch in BATCHES:
            inputs = arguments(function, vae, image_shape, batch)
            with torch.no_grad():
                for found, expected in zip(call(inputs), function(**inputs), strict=True):
                    assert found.shape == expected.shape
                    absolute.append((found - expected).abs().max())
                    relative.append(((found - expected).abs() / expected.abs().clamp(min=1)).max())
    return float(torch.stack(absolute).max()), float(torch.stack(relative).max())
