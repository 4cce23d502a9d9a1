"""Random numbers addressed by name: what is drawn depends on (seed, stream) alone, never on what was drawn before.

So nothing has to be saved to resume exactly, ranks draw different noise, and an extra draw somewhere changes nothing
elsewhere.
"""

from collections.abc import Sequence
from hashlib import blake2b

import torch
from torch import Tensor


def stream_seed(seed: int, *stream: int | str) -> int:
    """A 63-bit seed for the named stream, for example ``stream_seed(0, "noise", rank, step)``."""
    digest = blake2b(repr((seed, *stream)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(device: torch.device | str, seed: int, *stream: int | str) -> torch.Generator:
    """A generator on ``device`` at the start of the named stream."""
    return torch.Generator(device).manual_seed(stream_seed(seed, *stream))


def normal(shape: Sequence[int], device: torch.device | str, seed: int, *stream: int | str) -> Tensor:
    """eps ~ N(0, I) of the given shape: the same call returns the same numbers."""
    return torch.randn(shape, generator=generator(device, seed, *stream), device=device)
