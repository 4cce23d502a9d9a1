"""Matrix products in a compiled graph agree with float64 for any memory layout and threads."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from vae_lightning.compile import brgemm, graphs

# M, K, N: those of the default model, single numbers and rows, more than one block of each side
SHAPES = [
    (128, 784, 400),
    (128, 400, 40),
    (40, 128, 400),
    (128, 20, 784),
    (1, 1, 1),
    (1, 6, 5),
    (7, 2, 1),
    (6, 1, 9),
    (33, 34, 35),
    (17, 1030, 65),
    (600, 14, 300),
    (300, 2050, 3),
]
# each makes a matrix of a shape as a part of a contiguous one that ``make`` returns
LAYOUTS: list[Callable[[Callable[[int, int], Tensor], int, int], Tensor]] = [
    lambda make, rows, columns: make(rows, columns),
    lambda make, rows, columns: make(columns, rows).T,
    lambda make, rows, columns: make(rows + 2, columns + 3)[1:-1, 3:],
    lambda make, rows, columns: make(columns + 2, rows + 3).T[3:, 2:],
    lambda make, rows, columns: make(rows, 2 * columns)[:, ::2],
    lambda make, rows, columns: make(1, columns).expand(rows, columns),
]


def products(_: nn.Module) -> Callable[..., Sequence[Tensor]]:
    """Each matrix times its neighbor, times itself, one made in the graph, and one with a sum."""

    def multiply(*matrices: Tensor) -> list[Tensor]:
        pairs = zip(matrices[::2], matrices[1::2], strict=True)
        first, second, *_ = matrices
        made = (first + 1).T
        return [
            *(a @ b for a, b in pairs),
            first @ first.T,
            made @ made.T,
            torch.addmm(second[0], first, second),
        ]

    return multiply


def matrices(dtype: torch.dtype) -> list[Tensor]:
    """Two matrices of every shape, in alternating layouts."""
    generator = torch.Generator().manual_seed(0)

    def make(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator).to(dtype)

    found = []
    for number, (m, k, n) in enumerate(SHAPES + SHAPES[::-1]):
        left, right = number % len(LAYOUTS), number * 5 // 6 % len(LAYOUTS)
        found += [LAYOUTS[left](make, m, k), LAYOUTS[right](make, k, n)]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("threads", "dtype", "rounding"),
    [
        (1, torch.float32, 2e-6),
        (3, torch.float32, 2e-6),
        (2, torch.bfloat16, 2**-8),
        (16, torch.bfloat16, 2**-8),
    ],
    ids=str,
)
def test_products_in_a_graph_agree_with_float64(
    threads: int, dtype: torch.dtype, rounding: float
) -> None:
    inputs, before = matrices(dtype), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        graph = graphs.build(products, nn.Identity(), inputs)
        found = [graph(*inputs) for _ in range(2)]  # the second call reuses the memory
    finally:
        torch.set_num_threads(before)
    exact = products(nn.Identity())(*(matrix.double() for matrix in inputs))
    for values in found:
        for value, expected in zip(values, exact, strict=True):
            assert value.dtype == dtype
            assert (value.double() - expected).abs().max() <= rounding * expected.abs().max()


def targets(inputs: Sequence[Tensor]) -> set[object]:
    """The operations of a graph of products."""
    traced = graphs.build(products, nn.Identity(), inputs, lambda graph, _: graph)
    return {node.target for node in traced.graph.nodes}


def test_pytorch_multiplies_what_the_kernel_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = brgemm.matmul._opoverload, torch.ops.aten.mm.default
    pair = [torch.randn(3, 4), torch.randn(4, 5)]
    odd = [torch.randn(3, 5).bfloat16(), torch.randn(5, 6).bfloat16()]
    available = bool(brgemm.decompositions())
    assert (ours in targets(pair), theirs in targets(pair)) == (available, not available)
    assert theirs in targets(odd)
    assert theirs in targets([matrix.double() for matrix in pair])
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert ours not in targets(pair)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert ours not in targets(pair)
