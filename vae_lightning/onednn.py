"""Linear layers computed by oneDNN: in float32 on a CPU, where the library that PyTorch takes may be half as fast.

PyTorch multiplies float32 matrices by MKL, which leaves AVX-512 unused on processors that are not Intel's; oneDNN,
which PyTorch carries for convolutions and bfloat16, uses it. The results are the same up to the rounding of float32.
"""

import functools
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

AVAILABLE = platform.machine().lower() in ("x86_64", "amd64") and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b: x (N, I), W (O, I), b (O,) -> (N, O)."""
    if torch.compiler.is_compiling():
        return torch.ops.vae_lightning.product(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def shaped(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: ARG001 - what ``product`` takes
    """A tensor like the result."""
    return x.new_empty(len(x), len(weight))


# ``product`` as an operation that torch.compile leaves as it is: it takes oneDNN's own for one of inference
LIBRARY = torch.library.Library("vae_lightning", "DEF")
LIBRARY.define("product(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
LIBRARY.impl("product", product, "CPU")
LIBRARY.impl("product", shaped, "Meta")


class Linear(torch.autograd.Function):
    """x W^T + b and its gradients, each one product; x (N, I), W (O, I), b (O,) or None."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(N, O)."""
        return product(x, weight, bias)

    @staticmethod
    def setup_context(
        ctx: FunctionCtx,
        inputs: tuple[Tensor, Tensor, Tensor | None],
        output: Tensor,  # noqa: ARG004
    ) -> None:
        """Keeps x and W."""
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, W and b, where they are asked for, from that of the result (N, O)."""
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            product(grad, weight.t()) if of_x else None,
            product(grad.t(), x.t()) if of_weight else None,
            grad.sum(0) if of_bias else None,
        )


def forward(layer: nn.Linear, x: Tensor) -> Tensor:
    """What ``layer(x)`` gives, x (..., I) -> (..., O); by oneDNN where that is float32 on a CPU."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return F.linear(x, layer.weight, layer.bias)
    rows = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
    return Linear.apply(rows, layer.weight, layer.bias).view(*x.shape[:-1], -1)


@contextmanager
def linear_layers(module: nn.Module) -> Iterator[None]:
    """Within, all plain ``torch.nn.Linear`` of the module, of any network, are computed by oneDNN."""
    layers = [layer for layer in module.modules() if type(layer) is nn.Linear] if AVAILABLE else []
    for layer in layers:
        layer.forward = functools.partial(forward, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
