"""Translates the decoder of a likelihood into a list of operations that JavaScript can compute.

torch.fx traces the network, so that user-defined classes work if they consist of the supported
layers. Values are numbered: value 0 is the input (z, then the one-hot label), and value i + 1 is
the output of operation i. Each operation names its inputs by these numbers. Shapes are those of
one image, without the batch dimension.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from vae_lightning.checks.errors import ConfigError
from vae_lightning.distributions import (
    BernoulliLikelihood,
    ContinuousBernoulliLikelihood,
    DiscretizedLogisticLikelihood,
    GaussianLikelihood,
    LaplaceLikelihood,
    SquaredErrorLikelihood,
)
from vae_lightning.distributions.likelihood import Likelihood
from vae_lightning.distributions.scale import PerPixelScale
from vae_lightning.networks import ConditionalDecoder

# elementwise operations: every layer, function or method that computes them
POINTWISE: dict[object, str] = {
    **dict.fromkeys((nn.ReLU, F.relu, torch.relu, "relu"), "relu"),
    **dict.fromkeys((nn.Tanh, F.tanh, torch.tanh, "tanh"), "tanh"),
    **dict.fromkeys((nn.Sigmoid, F.sigmoid, torch.sigmoid, "sigmoid"), "sigmoid"),
    **dict.fromkeys((nn.SiLU, F.silu), "silu"),
    **dict.fromkeys((nn.GELU, F.gelu), "gelu"),
}
# layers, functions and methods that keep the elements and at most reshape them
SHAPE_ONLY = {
    nn.Flatten,
    nn.Unflatten,
    nn.Identity,
    nn.Dropout,
    nn.Dropout2d,
    torch.flatten,
    torch.reshape,
    torch.unflatten,
    "view",
    "reshape",
    "flatten",
    "unflatten",
    "contiguous",
}
ADD = {operator.add, operator.iadd, torch.add, "add"}
SUPPORTED_LAYERS = (
    "Linear, Conv2d, ConvTranspose2d, BatchNorm, Dropout, Flatten, Unflatten, ReLU, SiLU, GELU,"
    " GLU, Tanh, Sigmoid, +"
)


@dataclass(frozen=True)
class Op:
    """One operation."""

    kind: str
    inputs: list[int]  # numbers of the input values
    size: int  # number of elements of the output
    parameters: dict[str, float] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)


def translate(likelihood: Likelihood, latent_dim: int) -> tuple[list[Op], int]:
    """The operations from the input to the mean of p(x|z), and the number of classes.

    The input is z followed by the one-hot label (none if the number of classes is 0). Raises
    ConfigError with the name of the layer if a layer is not supported.
    """
    network, classes = likelihood.network, 0
    if isinstance(network, ConditionalDecoder):
        network, classes = network.network, network.classes
    ops = network_ops(network, latent_dim + classes)
    return ops + mean_ops(likelihood, ops), classes


def network_ops(network: nn.Module, inputs: int) -> list[Op]:
    """The operations of a decoder network in evaluation mode: z (1, inputs) -> (1, C, H, W)."""
    # In a container, the names of the layers begin with "network", also in error messages.
    container = nn.Sequential()
    container.add_module("network", network)
    try:
        traced = fx.GraphModule(container, fx.Tracer().trace(container))
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise unsupported(
            "network", network, f"torch.fx cannot trace its forward ({error})"
        ) from error
    with torch.no_grad():
        ShapeProp(traced).propagate(torch.zeros(1, inputs))
    ops: list[Op] = []
    values: dict[fx.Node, int] = {}
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            values[node] = 0
        elif node.op != "output" and "tensor_meta" in node.meta:
            # Nodes without tensor_meta compute sizes, which ShapeProp has already determined.
            inputs_of_node = [values[other] for other in tensor_inputs(node)]
            values[node] = add_operation(node, traced, inputs_of_node, ops)
    (last,) = tensor_inputs(traced.graph.output_node())
    if values[last] != len(ops):
        raise unsupported("network", network, "its output is not the output of its last layer")
    return ops


def tensor_inputs(node: fx.Node) -> list[fx.Node]:
    """The nodes whose tensors are inputs of a node, in order and with repetitions."""
    found: list[fx.Node] = []
    fx.map_arg(
        (node.args, node.kwargs),
        lambda other: found.append(other) if "tensor_meta" in other.meta else None,
    )
    return found


def shape(node: fx.Node) -> list[int]:
    """The shape of the output of a node, without the batch dimension."""
    return list(node.meta["tensor_meta"].shape[1:])


def add_operation(node: fx.Node, traced: fx.GraphModule, inputs: list[int], ops: list[Op]) -> int:
    """Appends the operation of a node, if it has one, and returns the number of its value."""
    layer = traced.get_submodule(str(node.target)) if node.op == "call_module" else None
    key = type(layer) if layer is not None else node.target
    size = node.meta["tensor_meta"].shape.numel()
    has_defaults = (
        set(node.kwargs) <= {"inplace"} and getattr(layer, "approximate", "none") == "none"
    )
    if key in SHAPE_ONLY and len(inputs) == 1:
        return inputs[0]
    if key in POINTWISE and has_defaults and len(inputs) == 1:
        ops.append(Op(POINTWISE[key], inputs, size))
    elif (
        key in ADD
        and has_defaults
        and len(inputs) == 2
        and len({tuple(shape(other)) for other in tensor_inputs(node)}) == 1
    ):
        ops.append(Op("add", inputs, size))
    elif key in LAYERS and (
        found := LAYERS[key](layer, shape(tensor_inputs(node)[0]), shape(node))
    ):
        kind, parameters, weights = found
        ops.append(Op(kind, inputs, size, parameters, weights))
    elif layer is not None:
        raise unsupported(str(node.target), layer)
    else:
        raise unsupported(f"{node.name} in forward", getattr(node.target, "__name__", node.target))
    return len(ops)


def unsupported(name: str, layer: object, reason: str = "") -> ConfigError:
    """The error for a layer that the page cannot compute."""
    kind = (
        f"{type(layer).__module__}.{type(layer).__name__}"
        if isinstance(layer, nn.Module)
        else f"{layer}"
    )
    return ConfigError(
        f"decoder layer {name} ({kind}): {reason or 'not supported by the page'}; the decoder must"
        f" consist of {SUPPORTED_LAYERS} (train, evaluate and verify support any layer)"
    )


Translation = tuple[str, dict[str, float], dict[str, Tensor]]  # kind, parameters, weights


def linear(layer: nn.Linear, before: list[int], after: list[int]) -> Translation | None:
    """y = W x + b for a vector x."""
    if len(before) != 1:
        return None
    parameters: dict[str, float] = {"rows": after[0], "inner": before[0]}
    return "linear", parameters, {"weight": layer.weight, "bias": bias_of(layer, after[0])}


def gate(layer: nn.GLU, before: list[int], _: list[int]) -> Translation | None:
    """The first half of a vector times the sigmoid of the second half."""
    return ("gate", {}, {}) if len(before) == 1 and layer.dim in (-1, 1) else None


def convolution(
    layer: nn.Conv2d | nn.ConvTranspose2d, before: list[int], after: list[int]
) -> Translation | None:
    """Weights as a matrix: (C_out, C_in kh kw), or (C_out kh kw, C_in) if transposed."""
    is_basic = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
    if not is_basic or isinstance(layer.padding, str) or len(before) != 3:
        return None
    parameters: dict[str, float] = {}
    for names, values in (
        (("channels", "height", "width"), before),
        (("outChannels", "outHeight", "outWidth"), after),
        (("kernelY", "kernelX"), layer.kernel_size),
        (("strideY", "strideX"), layer.stride),
        (("paddingY", "paddingX"), layer.padding),
    ):
        parameters |= dict(zip(names, values, strict=True))
    transposed = isinstance(layer, nn.ConvTranspose2d)
    weight = layer.weight.permute(1, 2, 3, 0) if transposed else layer.weight
    return (
        "transposedConvolution" if transposed else "convolution",
        parameters,
        {"weight": weight, "bias": bias_of(layer, after[0])},
    )


def batch_norm(
    layer: nn.BatchNorm1d | nn.BatchNorm2d, _: list[int], after: list[int]
) -> Translation | None:
    """y = scale x + shift in each channel, from the running statistics."""
    if layer.running_mean is None or layer.running_var is None:
        return None
    scale = (layer.running_var + layer.eps).rsqrt() * (1 if layer.weight is None else layer.weight)
    shift = -layer.running_mean * scale + (0 if layer.bias is None else layer.bias)
    return "affine", {"channels": after[0]}, {"scale": scale, "shift": shift}


def bias_of(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d, outputs: int) -> Tensor:
    """The bias of a layer (outputs,); zeros if it has none."""
    return torch.zeros(outputs) if layer.bias is None else layer.bias


LAYERS: dict[object, Callable[..., Translation | None]] = {
    nn.Linear: linear,
    nn.GLU: gate,
    nn.Conv2d: convolution,
    nn.ConvTranspose2d: convolution,
    nn.BatchNorm1d: batch_norm,
    nn.BatchNorm2d: batch_norm,
}


def mean_ops(likelihood: Likelihood, ops: list[Op]) -> list[Op]:
    """The operations from the outputs of the network to the mean of p(x|z)."""
    outputs, last = ops[-1].size, len(ops)
    if type(likelihood) is BernoulliLikelihood:
        if likelihood.offset is None:
            return [Op("sigmoid", [last], outputs)]
        shift = Op(
            "affine",
            [last],
            outputs,
            {"channels": outputs},
            ones(outputs) | {"shift": likelihood.offset},
        )
        return [shift, Op("sigmoid", [last + 1], outputs)]
    if type(likelihood) is ContinuousBernoulliLikelihood:
        return [Op("continuousBernoulli", [last], outputs, {"bound": likelihood.bound})]
    if type(likelihood) not in (
        SquaredErrorLikelihood,
        GaussianLikelihood,
        LaplaceLikelihood,
        DiscretizedLogisticLikelihood,
    ):
        raise unsupported("decoder", likelihood)
    per_pixel = isinstance(getattr(likelihood, "scale", None), PerPixelScale)
    size = outputs // 2 if per_pixel else outputs
    found = [Op("slice", [last], size, {"start": 0})]
    if isinstance(likelihood.activate, nn.Sigmoid):
        found.append(Op("sigmoid", [last + 1], size))
    if type(likelihood) is not DiscretizedLogisticLikelihood:
        return found
    location = last + len(found)
    if per_pixel:
        found.append(Op("slice", [last], size, {"start": size}))
        found.append(Op("softplus", [location + 1], size, {"floor": likelihood.floor}))
        return [*found, Op("discretizedLogistic", [location, location + 2], size)]
    _, scale = likelihood.scale(torch.zeros(1))
    return [*found, Op("discretizedLogistic", [location], size, {"scale": scale.item()})]


def ones(count: int) -> dict[str, Tensor]:
    """The weight ``scale`` of an affine operation that only shifts."""
    return {"scale": torch.ones(count)}
