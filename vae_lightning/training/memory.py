"""Refuses a model that does not fit into memory before the memory is taken."""

import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from vae_lightning.checks.errors import ConfigError

# functions that make a tensor of a given size
FACTORIES = (torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.eye)
FLOAT_BYTES = 4


def machine_bytes() -> int | None:
    """The memory of this machine in bytes; None if the system does not report it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


class MemoryLimit(TorchFunctionMode):
    """Within the context, ConfigError is raised before a model takes more memory than there is.

    Args:
        most: bytes that the tensors may take together; None: no limit.
    """

    def __init__(self, most: int | None) -> None:
        super().__init__()
        self.most, self.taken = most, 0

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        """Turns PyTorch's refusal to allocate memory into ConfigError."""
        super().__exit__(kind, error, trace)
        if isinstance(error, RuntimeError) and "allocate memory" in str(error):
            raise ConfigError(f"model: must fit into the memory of this machine ({error})")

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the function returns
        """Calls the function, unless it would take too much memory."""
        if func in FACTORIES and self.most is not None:
            self.taken += FLOAT_BYTES * count(args)
            if self.taken > self.most:
                raise ConfigError(
                    "model: must fit into the memory of this machine,"
                    f" {self.most / 1e9:.0f} GB; its parameters take {self.taken / 1e9:.0f} GB or"
                    " more; reduce model.latent_dim or the widths of the networks"
                )
        return func(*args, **(kwargs or {}))


def count(size: object) -> int:
    """The number of values of a tensor whose size is given as numbers or as a sequence of them."""
    if isinstance(size, int):
        return size
    return math.prod(map(count, size)) if isinstance(size, tuple | list | torch.Size) else 1
