"""The tensors that an optimizer step of Adam reads and changes."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy
import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

PLAIN_ADAM = {"amsgrad": False, "maximize": False, "differentiable": False}


def is_plain_adam(optimizer: Optimizer) -> bool:
    """Whether this is Adam or AdamW with one group of parameters and without variants."""
    group, *others = optimizer.param_groups
    if type(optimizer) not in (Adam, AdamW) or others:
        return False
    return all(group[name] == value for name, value in PLAIN_ADAM.items())


class StepState:
    """Parameters, moments and step counts, as the tensors that a compiled step takes.

    Attributes:
        trained: names of the parameters that are trained.
        kept: names of the other parameters and of the buffers.
        parameters, first, second: the trained parameters and their moments.
        tensors: all of them in this order, then the kept ones.
        counts: steps taken, (parameters,). The counts in the optimizer's state are elements of this
            tensor.
    """

    def __init__(self, module: nn.Module, optimizer: Optimizer) -> None:
        named = dict(module.named_parameters())
        self.owners = {name: value for name, value in named.items() if value.requires_grad}
        self.trained = list(self.owners)
        others = [*named.items(), *module.named_buffers()]
        kept = {name: value.detach() for name, value in others if name not in self.owners}
        self.kept = list(kept)
        states = [optimizer.state[parameter] for parameter in self.owners.values()]
        self.counts = torch.stack([state["step"] for state in states])
        for state, count in zip(states, self.counts, strict=True):
            state["step"] = count  # a part of one tensor, so that one addition counts for all
        self.parameters = [parameter.detach() for parameter in self.owners.values()]
        self.first = [state["exp_avg"] for state in states]
        self.second = [state["exp_avg_sq"] for state in states]
        self.tensors = [*self.parameters, *self.first, *self.second, *kept.values()]

    def copies(self) -> list[Tensor]:
        """Copies of all tensors and of the counts."""
        return [tensor.clone() for tensor in (*self.tensors, self.counts)]

    def restore(self, copies: Sequence[Tensor]) -> None:
        """Gives all tensors and the counts the values of these copies."""
        for tensor, value in zip((*self.tensors, self.counts), copies, strict=True):
            tensor.copy_(value)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Restores all tensors, gradients and random generators when the block ends."""
        copies, gradients = self.copies(), [owner.grad for owner in self.owners.values()]
        generators = torch.get_rng_state(), random.getstate(), numpy.random.get_state()
        try:
            yield
        finally:
            self.restore(copies)
            for owner, gradient in zip(self.owners.values(), gradients, strict=True):
                owner.grad = gradient
            torch.set_rng_state(generators[0])
            random.setstate(generators[1])
            numpy.random.set_state(generators[2])
