"""Export of the functions of a model as graphs that accept any batch size.

Every file is read back and compared with the model.

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

from vae_lightning import rng
from vae_lightning.checks.errors import ConfigError
from vae_lightning.networks import UNCONDITIONAL, Condition
from vae_lightning.runs.run import Run
from vae_lightning.runs.safetensors import read_safetensors, write_safetensors
from vae_lightning.storage.files import atomic_write
from vae_lightning.training.module import VAE

BATCH_SIZES = (1, 2, 7)  # batch sizes at which the files are compared with the model
TRACED_BATCH_SIZE = 2  # torch.export treats a size of 1 as a constant
SUFFIX = {"onnx": ".onnx", "torch_export": ".pt2"}


def condition_on(label: Tensor | None) -> Condition:
    """The condition of the encoder and the decoder."""
    return UNCONDITIONAL if label is None else Condition(label)


class Encoder(nn.Module):
    """x (B, C, H, W) -> mean and std of q(z|x), (B, L) each.

    For a full covariance matrix, std holds the marginal standard deviations.
    """

    name, inputs, outputs = "encoder", ("x",), ("mean", "std")

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.encoder = vae.encoder
        # The non-strict tracer makes the batch size a constant if q has a full covariance matrix.
        self.strict = True

    def forward(self, x: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W) -> mean, std (B, L)."""
        marginals = self.encoder(x, condition_on(label)).marginals()
        return marginals.mean, marginals.std


class Sampler(nn.Module):
    """x (B, C, H, W), noise (B, L) from N(0, I) -> z (B, L), a sample from q(z|x)."""

    name, inputs, outputs = "sampler", ("x", "noise"), ("z",)

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.encoder = vae.encoder
        # The strict tracer of torch does not support the transforms of a flow.
        self.strict = has_moments(vae)

    def forward(self, x: Tensor, noise: Tensor, label: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), noise (B, L) -> z (B, L)."""
        return self.encoder(x, condition_on(label)).transform(noise[None])[0]


class Decoder(nn.Module):
    """z (B, L) -> the mean of p(x|z), (B, C, H, W)."""

    name, inputs, outputs = "decoder", ("z",), ("image",)

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.decoder = vae.decoder
        # The non-strict tracer is faster, but it makes the batch size of the labels a constant.
        self.strict = bool(vae.classes)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """z (B, L) -> image (B, C, H, W)."""
        return self.decoder(z[None], condition_on(label)).mean[0]


Function = Encoder | Sampler | Decoder


class File(NamedTuple):
    """An exported file, and how far its outputs are from those of the model."""

    path: Path
    description: str  # inputs -> outputs, or the content
    difference: float  # largest |file - model| over the outputs
    relative_difference: float  # largest |file - model| / max(1, |model|)


def has_moments(vae: VAE) -> bool:
    """Whether the posterior's mean and std have a closed form."""
    return vae.encoder.has_marginals


def functions(vae: VAE) -> list[Function]:
    """The functions to export; a posterior without closed-form moments has no encoder."""
    kinds = (Encoder, Sampler, Decoder) if has_moments(vae) else (Sampler, Decoder)
    # Without gradients, the outputs of a graph need no detach().
    constant = copy.deepcopy(vae).requires_grad_(False)
    return [kind(constant).eval() for kind in kinds]


def arguments(
    function: Function, vae: VAE, image_shape: Sequence[int], batch: int
) -> dict[str, Tensor]:
    """Example inputs by name: uniform pixels in [0, 1], normal noise and z, and labels."""
    x = torch.rand(batch, *image_shape, generator=rng.generator("cpu", 0, "export", batch))
    made = {"x": x} | {
        name: rng.normal((batch, vae.latent_dim), "cpu", 0, "export", name)
        for name in ("noise", "z")
    }
    label = {"label": torch.arange(batch) % vae.classes} if vae.classes else {}
    return {name: made[name] for name in function.inputs} | label


def write(run: Run, form: str, folder: Path) -> Iterator[File]:
    """Writes and compares the files one by one; raises ConfigError if torch cannot trace one."""
    vae, shape = run.module, list(run.cfg.data.image_shape)
    if form == "safetensors":
        path = folder / "model.safetensors"
        write_safetensors(path, run)
        reloaded = read_safetensors(path, run.cfg.trust).module
        pairs = [
            (call_in_order(a), b) for a, b in zip(functions(reloaded), functions(vae), strict=True)
        ]
        yield File(path, "weights and configuration", *largest_differences(pairs, vae, shape))
        return
    for function in functions(vae):
        yield write_function(function, run, form, folder)


def write_function(function: Function, run: Run, form: str, folder: Path) -> File:
    """Writes one graph and compares it; raises ConfigError if torch cannot trace it."""
    vae, shape = run.module, list(run.cfg.data.image_shape)
    inputs = arguments(function, vae, shape, TRACED_BATCH_SIZE)
    path = folder / f"{function.name}{SUFFIX[form]}"
    write_graph(function, inputs, form, path)
    read = read_onnx if form == "onnx" else read_torch
    signature = f"{', '.join(inputs)} -> {', '.join(function.outputs)}"
    return File(path, signature, *largest_differences([(read(path), function)], vae, shape))


def call_in_order(function: nn.Module) -> Callable[[dict[str, Tensor]], Sequence[Tensor]]:
    """The function as a callable that takes a dict of inputs and returns all outputs."""
    return lambda inputs: outputs_of(function(*inputs.values()))


def outputs_of(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """All outputs of a function, also of one with a single output."""
    return (result,) if isinstance(result, Tensor) else tuple(result)


def write_graph(function: Function, inputs: dict[str, Tensor], form: str, path: Path) -> None:
    """Traces a function for any batch size and writes the graph; ConfigError if that fails."""
    batch = torch.export.Dim("batch")
    shapes = {name: {0: batch} for name in inputs}
    try:
        with torch.no_grad():
            program = torch.export.export(
                function, tuple(inputs.values()), dynamic_shapes=shapes, strict=function.strict
            )
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"format={form}: torch cannot trace the {function.name} ({reason}); safetensors can"
        ) from error
    if form == "torch_export":
        # The empty table decomposes nothing, but it inlines the autocast regions of a flow. A .pt2
        # file with such regions cannot be read back.
        with atomic_write(path) as temporary:
            torch.export.save(program.run_decompositions({}), temporary)
        return
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # it logs notices about its own defaults
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        exported = torch.onnx.export(
            program, dynamo=True, verbose=False, output_names=function.outputs
        )
    assert exported is not None  # it is None only without dynamo
    name_batch_axis(exported)
    with atomic_write(path) as temporary:
        exported.save(temporary)


def name_batch_axis(exported: torch.onnx.ONNXProgram) -> None:
    """Names the first axis of all inputs and outputs ``batch``; torch numbers it, as in s68."""
    import onnx_ir

    for value in (*exported.model.graph.inputs, *exported.model.graph.outputs):
        assert value.shape is not None
        value.shape = onnx_ir.Shape(["batch", *value.shape[1:]])


def read_torch(path: Path) -> Callable[[dict[str, Tensor]], Sequence[Tensor]]:
    """Loads a .pt2 file as a callable that takes inputs by name."""
    return call_in_order(torch.export.load(path).module())


def read_onnx(path: Path) -> Callable[[dict[str, Tensor]], Sequence[Tensor]]:
    """Loads an .onnx file with onnxruntime (CPU) as a callable that takes inputs by name."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def call(inputs: dict[str, Tensor]) -> list[Tensor]:
        return [
            torch.from_numpy(out)
            for out in session.run(None, {name: x.numpy() for name, x in inputs.items()})
        ]

    return call


def largest_differences(
    pairs: Sequence[tuple[Callable[[dict[str, Tensor]], Sequence[Tensor]], Function]],
    vae: VAE,
    image_shape: Sequence[int],
) -> tuple[float, float]:
    """The largest absolute and relative differences of (file, function) pairs.

    The maximum is over all outputs and over BATCH_SIZES. It is NaN if any difference is NaN.
    """
    absolute, relative = [], []
    for call, function in pairs:
        for batch in BATCH_SIZES:
            inputs = arguments(function, vae, image_shape, batch)
            with torch.no_grad():
                for found, expected in zip(
                    call(inputs), outputs_of(function(*inputs.values())), strict=True
                ):
                    assert found.shape == expected.shape
                    absolute.append((found - expected).abs().max())
                    relative.append(((found - expected).abs() / expected.abs().clamp(min=1)).max())
    return float(torch.stack(absolute).max()), float(torch.stack(relative).max())
