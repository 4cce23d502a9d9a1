"""Products of float32 matrices by oneDNN: on a CPU where the library that PyTorch takes may be half as fast.

PyTorch multiplies float32 matrices by MKL, which leaves AVX-512 unused on processors that are not Intel's. oneDNN,
which it carries for convolutions and bfloat16, uses it, but PyTorch asks it for a product of float32 only on behalf of
those who would be content with bfloat16. Whether oneDNN then does round to bfloat16 depends on the processor: where
that has AMX it does, else it computes in float32. So it is tried first, and where it rounds, all stays as it was.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

PROBE = (128, 784, 400)  # of a size for which oneDNN takes the kernels of training


def keeps_float32() -> bool:
    """Whether a product of float32 matrices, as PyTorch is set now, rounds neither factor: one of them picks rows."""
    rows, inner, columns = PROBE
    values = torch.randn(inner, columns, generator=torch.Generator().manual_seed(0))
    index = torch.arange(rows)
    pick = torch.nn.functional.one_hot(index, inner).float()
    return torch.equal(pick @ values, values[index]) and torch.equal(values.T @ pick.T, values[index].T)


@contextmanager
def products() -> Iterator[None]:
    """Within, float32 matrices on a CPU are multiplied by oneDNN: the same numbers up to the rounding of float32."""
    setting = torch.backends.mkldnn.matmul
    before = setting.fp32_precision
    try:
        setting.fp32_precision = "bf16"
        if not keeps_float32():
            setting.fp32_precision = before
        yield
    finally:
        setting.fp32_precision = before
