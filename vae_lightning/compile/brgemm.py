"""A kernel for matrix products in a compiled graph: it calls oneDNN's inner kernel on blocks.

PyTorch asks oneDNN for the whole product. At each call oneDNN then chooses an algorithm and copies
matrices, which takes half of the time or more for the matrices of a small network.
"""

import ctypes
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch._inductor import ir, lowering
from torch._inductor.codegen.cpp_template import CppTemplate

SOURCE = Path(__file__).with_suffix(".h").read_text()
VERSION = zlib.crc32(Path(__file__).read_bytes() + SOURCE.encode())
CALL = """
extern "C"
{{kernel.def_kernel(inputs={"A": a, "B": b}, outputs={"C": c})}}
{
    {{kernel.maybe_codegen_profile()}}
    vae_lightning::matmul(
        &{{kernel.index(a, [0, 0])}}, &{{kernel.index(b, [0, 0])}}, C, {{numbers}});
}
"""
KERNEL = "_ZN2at6native7cpublas6brgemmEllllllbPKfS3_Pfb"  # at::native::cpublas::brgemm of float
LIMITS = (
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
)  # with which a user restricts the instructions of oneDNN


# PyTorch's cache of graphs identifies an operation by its name: each version has its own name
@torch.library.custom_op(f"vae_lightning::matmul_{VERSION:08x}", mutates_args=())
def matmul(a: Tensor, b: Tensor) -> Tensor:
    """a b, (M, N), in float32, for a (M, K) and b (K, N) of float32 or bfloat16."""
    return a.float() @ b.float()


@matmul.register_fake
def _(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1], dtype=torch.float32)


class Matmul(CppTemplate):
    """``matmul`` in C++."""

    def render(self, **arguments: object) -> str:
        """The C++ kernel for the shapes and strides of the two inputs."""
        a, b = self.input_nodes
        (m, k), (_, n) = a.get_size(), b.get_size()
        a_layout, b_layout = layout_of(a), layout_of(b)
        assert a_layout is not None  # see readable
        assert b_layout is not None
        (a_turned, a_step), (b_turned, b_step) = a_layout, b_layout
        numbers = ", ".join(map(str, (m, n, k, a_step, b_step, int(a_turned), int(b_turned))))
        call = self._template_from_string(CALL)
        c = arguments.get("template_buffer_node") or self.output_node
        return (
            self.header().getvalue()
            + SOURCE
            + call.render(kernel=arguments["kernel"], a=a, b=b, c=c, numbers=numbers)
        )


def layout_of(matrix: ir.IRNode) -> tuple[bool, int] | None:
    """Whether a matrix is stored transposed, and its leading dimension; None for other layouts."""
    (rows, columns), (down, right) = map(int, matrix.get_size()), map(int, matrix.get_stride())
    if right == 1 and (down >= columns or rows == 1):
        return False, max(down, columns)
    if down == 1 and (right >= rows or columns == 1):
        return True, max(right, rows)
    return None


def readable(matrix: ir.IRNode) -> ir.IRNode:
    """The matrix in memory, copied if the kernel cannot read its layout."""
    matrix = ir.ExternKernel.realize_input(matrix)
    matrix.freeze_layout()
    found = layout_of(matrix)
    is_readable = found is not None and (matrix.get_dtype() == torch.float32 or found[1] % 2 == 0)
    return matrix if is_readable else ir.ExternKernel.require_contiguous(matrix)


@lowering.register_lowering(matmul._opoverload, type_promotion_kind=None)
def lower(a: ir.IRNode, b: ir.IRNode) -> ir.IRNode:
    """``matmul`` in a graph that TorchInductor builds."""
    a, b = readable(a), readable(b)
    if a.get_name() == b.get_name():  # the arguments of the kernel are named by their buffers
        b = ir.ExternKernel.copy_input(b)
    device = a.get_device()
    assert device is not None
    layout = ir.FixedLayout(device, torch.float32, [a.get_size()[0], b.get_size()[1]])
    return (
        Matmul("matmul", [a, b], layout, num_threads=0).generate().output_node()
    )  # as many threads as there are when it runs


def suited(a: Tensor) -> bool:
    """Whether the kernel supports a matrix a (M, K) on the left."""
    return a.dtype == torch.float32 or (a.dtype == torch.bfloat16 and a.shape[1] % 2 == 0)


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """``aten.mm``: a b, (M, N), rounded to the type of a and b."""
    return matmul(a, b).to(a.dtype) if suited(a) else NotImplemented


def multiply_add(
    bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    """``aten.addmm``: bias + a b, rounded once."""
    if not suited(a) or (beta, alpha) != (1, 1):
        return NotImplemented
    return (bias.float() + matmul(a, b)).to(a.dtype)


def decompositions() -> dict[torch._ops.OpOverload, Callable[..., Tensor]]:
    """``matmul`` as the replacement of PyTorch's matrix products.

    It is empty where the processor has no AVX-512 or this PyTorch does not have oneDNN's kernel.
    """
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    limited = any(name in os.environ for name in LIMITS)
    if limited or torch.backends.cpu.get_cpu_capability() != "AVX512" or not library.exists():
        return {}
    if not hasattr(ctypes.CDLL(str(library)), KERNEL):  # not in this version of PyTorch
        return {}
    return {torch.ops.aten.mm.default: multiply, torch.ops.aten.addmm.default: multiply_add}
