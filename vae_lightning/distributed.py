"""Sums over the processes of a distributed training."""

import torch
from jaxtyping import Float
from torch import Tensor


def summed_over_processes(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Returns the sum of the values of all processes; the values themselves in a single process.

    Every process must call this function the same number of times.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    total = values.clone()
    torch.distributed.all_reduce(total)
    return total
