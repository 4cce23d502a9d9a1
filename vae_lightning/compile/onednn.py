"""Products of float32 matrices by oneDNN, up to twice as fast on some CPUs.

PyTorch multiplies float32 matrices with MKL, which does not use AVX-512 on processors that are not
Intel's. oneDNN, which PyTorch contains for convolutions and bfloat16, does use it. PyTorch calls
oneDNN for float32 only if the user permits a precision of bfloat16. Whether oneDNN then really
rounds to bfloat16 depends on the processor: it does with AMX, else it computes in float32. So the
setting is tried first, and it is withdrawn where the product is rounded.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

PROBE = (128, 784, 400)  # a size for which oneDNN takes the same kernels as in training


def keeps_float32() -> bool:
    """Whether a product of float32 matrices is not rounded to a lower precision.

    One factor selects rows of the other, so that an exact product returns these rows.
    """
    rows, inner, columns = PROBE
    values = torch.randn(inner, columns, generator=torch.Generator().manual_seed(0))
    index = torch.arange(rows)
    pick = torch.nn.functional.one_hot(index, inner).float()
    return torch.equal(pick @ values, values[index]) and torch.equal(
        values.T @ pick.T, values[index].T
    )


@contextmanager
def products() -> Iterator[None]:
    """A context in which oneDNN multiplies float32 matrices on a CPU, if it keeps float32."""
    setting = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue] - PyTorch defines it at run time
    before = setting.fp32_precision
    try:
        setting.fp32_precision = "bf16"
        if not keeps_float32():
            setting.fp32_precision = before
        yield
    finally:
        setting.fp32_precision = before
