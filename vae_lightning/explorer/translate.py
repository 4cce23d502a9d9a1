"""A likelihood's decoder as a list of plain operations with their weights, for a page that has no PyTorch.

The network is traced by torch.fx, so that a user's own class works too if it is made of the layers below. Every
operation takes values by their position and gives one: value 0 is the input (z, then the label one-hot), value i + 1
is what operation i gives. Shapes are of one image, without the batch.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from vae_lightning.distributions import (
    BernoulliLikelihood,
    ContinuousBernoulliLikelihood,
    DiscretizedLogisticLikelihood,
    GaussianLikelihood,
    LaplaceLikelihood,
    SquaredErrorLikelihood,
)
from vae_lightning.distributions.likelihood import MEAN_ACTIVATIONS, SCALE_FLOOR
from vae_lightning.networks import ConditionalDecoder

# an operation on each number, by every way of writing it
POINTWISE: dict[object, str] = {
    **dict.fromkeys((nn.ReLU, F.relu, torch.relu, "relu"), "relu"),
    **dict.fromkeys((nn.Tanh, F.tanh, torch.tanh, "tanh"), "tanh"),
    **dict.fromkeys((nn.Sigmoid, F.sigmoid, torch.sigmoid, "sigmoid"), "sigmoid"),
    **dict.fromkeys((nn.SiLU, F.silu), "silu"),
    **dict.fromkeys((nn.GELU, F.gelu), "gelu"),
}
# what leaves the numbers as they are
SAME = {
    *(nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout2d),
    *(torch.flatten, torch.reshape, torch.unflatten, "view", "reshape", "flatten", "unflatten", "contiguous"),
}
ADD = {operator.add, operator.iadd, torch.add, "add"}
KNOWN = "Linear, Conv2d, ConvTranspose2d, BatchNorm, Dropout, Flatten, Unflatten, ReLU, SiLU, GELU, Tanh, Sigmoid, +"


@dataclass(frozen=True)
class Op:
    """One operation."""

    kind: str
    inputs: list[int]  # positions of values
    size: int  # how many numbers it gives
    numbers: dict[str, float] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)


def translate(likelihood: nn.Module, latent_dim: int) -> tuple[list[Op], int]:
    """The operations from the input to the mean of p(x|z), and the number of labels that follow z in it.

    Raises ValueError, with the layer's name, for what the page does not know.
    """
    network, classes = likelihood.network, 0
    if isinstance(network, ConditionalDecoder):
        network, classes = network.network, network.classes
    ops = network_ops(network, latent_dim + classes)
    return ops + head(likelihood, ops), classes


def network_ops(network: nn.Module, inputs: int) -> list[Op]:
    """The operations of a decoder network in evaluation mode, z (1, inputs) -> (1, C, H, W)."""
    held = nn.Sequential()
    held.add_module("network", network)
    try:
        traced = fx.GraphModule(held, fx.Tracer().trace(held))
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise unknown("network", network, f"torch.fx cannot trace its forward ({error})") from error
    with torch.no_grad():
        ShapeProp(traced).propagate(torch.zeros(1, inputs))
    ops: list[Op] = []
    places: dict[fx.Node, int] = {}
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            places[node] = 0
        elif node.op != "output" and "tensor_meta" in node.meta:  # others compute sizes, which ShapeProp knows
            places[node] = place(node, traced, [places[other] for other in tensors(node)], ops)
    (last,) = tensors(traced.graph.output_node())
    if places[last] != len(ops):
        raise unknown("network", network, "its output is not that of its last layer")
    return ops


def tensors(node: fx.Node) -> list[fx.Node]:
    """The nodes whose tensors a node takes, in order, each as often as it is taken."""
    found: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), lambda other: found.append(other) if "tensor_meta" in other.meta else None)
    return found


def shape(node: fx.Node) -> list[int]:
    """Of what a node gives, without the batch."""
    return list(node.meta["tensor_meta"].shape[1:])


def place(node: fx.Node, traced: fx.GraphModule, inputs: list[int], ops: list[Op]) -> int:
    """The position of what a node gives; adds its operation, if it is one."""
    layer = traced.get_submodule(node.target) if node.op == "call_module" else None
    key = type(layer) if layer is not None else node.target
    size = node.meta["tensor_meta"].shape.numel()
    plain = set(node.kwargs) <= {"inplace"} and getattr(layer, "approximate", "none") == "none"
    if key in SAME and len(inputs) == 1:
        return inputs[0]
    if key in POINTWISE and plain and len(inputs) == 1:
        ops.append(Op(POINTWISE[key], inputs, size))
    elif key in ADD and plain and len(inputs) == 2 and len({tuple(shape(other)) for other in tensors(node)}) == 1:
        ops.append(Op("add", inputs, size))
    elif key in LAYERS and (found := LAYERS[key](layer, shape(tensors(node)[0]), shape(node))):
        kind, numbers, weights = found
        ops.append(Op(kind, inputs, size, numbers, weights))
    elif layer is not None:
        raise unknown(str(node.target), layer)
    else:
        raise unknown(f"{node.name} in forward", getattr(node.target, "__name__", node.target))
    return len(ops)


def unknown(name: str, layer: object, why: str = "") -> ValueError:
    """The error for a layer that the page cannot compute."""
    kind = f"{type(layer).__module__}.{type(layer).__name__}" if isinstance(layer, nn.Module) else f"{layer}"
    return ValueError(
        f"decoder layer {name} ({kind}): {why or 'the page does not know it'}; must be made of {KNOWN}"
        " (train, evaluate and verify take any layer)"
    )


Found = tuple[str, dict[str, float], dict[str, Tensor]]


def linear(layer: nn.Linear, before: list[int], after: list[int]) -> Found | None:
    """y = W x + b of a vector."""
    if len(before) != 1:
        return None
    numbers = {"rows": after[0], "inner": before[0]}
    return "linear", numbers, {"weight": layer.weight, "bias": bias_of(layer, after[0])}


def convolution(layer: nn.Conv2d | nn.ConvTranspose2d, before: list[int], after: list[int]) -> Found | None:
    """Weights as the matrix of a product: (C_out, C_in kh kw), transposed: (C_out kh kw, C_in)."""
    ordinary = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
    if not ordinary or isinstance(layer.padding, str) or len(before) != 3:
        return None
    numbers: dict[str, float] = {}
    for names, values in (
        (("channels", "height", "width"), before),
        (("outChannels", "outHeight", "outWidth"), after),
        (("kernelY", "kernelX"), layer.kernel_size),
        (("strideY", "strideX"), layer.stride),
        (("paddingY", "paddingX"), layer.padding),
    ):
        numbers |= dict(zip(names, values, strict=True))
    transposed = isinstance(layer, nn.ConvTranspose2d)
    weight = layer.weight.permute(1, 2, 3, 0) if transposed else layer.weight
    return "transposed" if transposed else "convolution", numbers, {"weight": weight, "bias": bias_of(layer, after[0])}


def batch_norm(layer: nn.BatchNorm1d | nn.BatchNorm2d, _: list[int], after: list[int]) -> Found | None:
    """y = scale x + shift in every channel, with the running statistics."""
    if layer.running_mean is None:
        return None
    scale = (layer.running_var + layer.eps).rsqrt() * (1 if layer.weight is None else layer.weight)
    shift = -layer.running_mean * scale + (0 if layer.bias is None else layer.bias)
    return "affine", {"channels": after[0]}, {"scale": scale, "shift": shift}


def bias_of(layer: nn.Module, outputs: int) -> Tensor:
    """A layer's bias, zero where it has none, (outputs,)."""
    return torch.zeros(outputs) if layer.bias is None else layer.bias


LAYERS: dict[object, Callable[..., Found | None]] = {
    nn.Linear: linear,
    nn.Conv2d: convolution,
    nn.ConvTranspose2d: convolution,
    nn.BatchNorm1d: batch_norm,
    nn.BatchNorm2d: batch_norm,
}


def head(likelihood: nn.Module, ops: list[Op]) -> list[Op]:
    """The operations from the network's outputs to the mean of p(x|z)."""
    outputs, at, kind = ops[-1].size, len(ops), type(likelihood)
    if kind is BernoulliLikelihood:
        if likelihood.offset is None:
            return [Op("sigmoid", [at], outputs)]
        shift = Op("affine", [at], outputs, {"channels": outputs}, ones(outputs) | {"shift": likelihood.offset})
        return [shift, Op("sigmoid", [at + 1], outputs)]
    if kind is ContinuousBernoulliLikelihood:
        return [Op("continuousBernoulli", [at], outputs, {"bound": likelihood.bound})]
    if kind not in (SquaredErrorLikelihood, GaussianLikelihood, LaplaceLikelihood, DiscretizedLogisticLikelihood):
        raise unknown("decoder", likelihood)
    per_pixel = getattr(likelihood, "kind", "") == "per_pixel"
    size = outputs // 2 if per_pixel else outputs
    found = [Op("part", [at], size, {"start": 0})]
    if likelihood.activate is MEAN_ACTIVATIONS["sigmoid"]:
        found.append(Op("sigmoid", [at + 1], size))
    if kind is not DiscretizedLogisticLikelihood:
        return found
    location = at + len(found)
    if per_pixel:
        found.append(Op("part", [at], size, {"start": size}))
        found.append(Op("softplus", [location + 1], size, {"floor": SCALE_FLOOR}))
        return [*found, Op("discretizedLogistic", [location, location + 2], size)]
    scale = F.softplus(likelihood.raw_scale) + SCALE_FLOOR if likelihood.kind == "learned" else likelihood.scale
    return [*found, Op("discretizedLogistic", [location], size, {"scale": scale.item()})]


def ones(count: int) -> dict[str, Tensor]:
    """A scale that changes nothing."""
    return {"scale": torch.ones(count)}
