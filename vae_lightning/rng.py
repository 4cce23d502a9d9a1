"""Named random streams: the numbers depend only on (seed, stream), not on earlier draws.

Therefore an exact resume needs no saved random state, each rank can draw different noise, and an
additional draw in one place does not change the numbers in another.
"""

from collections.abc import Sequence
from hashlib import blake2b

import torch
from torch import Tensor


def stream_seed(seed: int, *stream: int | str) -> int:
    """Returns a 63-bit seed for a stream, for example ``stream_seed(0, "noise", rank, step)``."""
    digest = blake2b(repr((seed, *stream)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(device: torch.device | str, seed: int, *stream: int | str) -> torch.Generator:
    """Returns a generator on ``device`` at the start of the named stream."""
    return torch.Generator(device).manual_seed(stream_seed(seed, *stream))


def normal(
    shape: Sequence[int], device: torch.device | str, seed: int, *stream: int | str
) -> Tensor:
    """Draws eps ~ N(0, I) of the given shape; the same call returns the same numbers."""
    return torch.randn(shape, generator=generator(device, seed, *stream), device=device)
