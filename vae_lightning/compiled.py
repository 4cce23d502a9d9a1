"""The optimiser step as one compiled graph: forward, gradient and Adam, with no Python between the operations.

It replaces ``VAE.optimize``; its results agree with those of the plain step up to the rounding of float32.
"""

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from vae_lightning import graphs
from vae_lightning.annealing import Constant
from vae_lightning.data import Batch
from vae_lightning.module import VAE
from vae_lightning.step import Given, Loss, coefficients, decay_of, step_of

log = logging.getLogger(__name__)

PLAIN = {"amsgrad": False, "maximize": False, "differentiable": False}  # of Adam


class CompiledStep:
    """``optimize(batch, optimizer)`` of a module, by a graph where that is possible, and as it was where it is not.

    The first step, which makes the optimiser's state, and batches of another size are done as they were. A model, an
    objective or a machine that cannot be compiled is named once in the log. What a graph has built in, numbers and
    choices in the model and its objective, is looked at once an epoch: if a callback has changed it, the graph is left.

    Args:
        module: of which it is a step.
        size: images of a batch.
        build: makes the traced operations fast.
    """

    def __init__(self, module: VAE, size: int, build: graphs.Builder = graphs.inductor) -> None:
        self.module, self.size, self.build = module, size, build
        self.loss = Loss(module)
        self.annealing = getattr(module.objective, "annealing", Constant())
        module.objective.annealing = Given(self.annealing)
        self.graph: graphs.Graph | None = None
        self.refused = False

    def __call__(self, batch: Batch, optimizer: Optimizer) -> None:
        """One optimiser step."""
        if self.graph is not None and self.epoch != self.module.current_epoch:
            self.check(optimizer)
        if len(batch.index) == self.size and not self.refused and optimizer.state:
            if self.graph is None:
                self.prepare(batch, optimizer)
            if self.graph is not None:
                self.step(batch, optimizer)
                return
        VAE.optimize(self.module, batch, optimizer)

    def step(self, batch: Batch, optimizer: Optimizer) -> None:
        """One step by the graph."""
        (sums,) = self.graph(*self.tensors, *self.inputs(batch, optimizer))
        self.counts.add_(1)
        self.module.add(sums, len(batch.index))

    def inputs(self, batch: Batch, optimizer: Optimizer) -> list[Tensor]:
        """What differs between two steps: images, noise, factor of the annealing and scalars of ``adam``, labels."""
        values = coefficients(optimizer, float(self.counts[0]) + 1)
        scalars = torch.tensor([self.annealing(self.module.global_step), *values])
        return [batch.x, self.module.training_noise(batch), scalars, *batch.condition]

    def prepare(self, batch: Batch, optimizer: Optimizer) -> None:
        """Builds the graph, once the optimiser has its state, or says why there is none."""
        named = dict(self.loss.named_parameters())
        trained = {name: value.detach() for name, value in named.items() if value.requires_grad}
        if reason := unsuited(batch, optimizer, [named[name] for name in trained]):
            self.refuse(reason)
            return
        log.info("compiling the optimiser step, which takes some seconds")
        states = [optimizer.state[named[name]] for name in trained]
        self.counts = torch.stack([state["step"] for state in states])
        for state, count in zip(states, self.counts, strict=True):
            state["step"] = count  # a part of one tensor, so that one addition counts for all
        kept = {
            name: value.detach() for name, value in [*named.items(), *self.loss.named_buffers()] if name not in trained
        }
        moments = [state[key] for key in ("exp_avg", "exp_avg_sq") for state in states]
        self.tensors = [*trained.values(), *moments, *kept.values()]
        self.epoch, self.built_in = self.module.current_epoch, self.settings(optimizer)
        inputs = [*self.tensors, *self.inputs(batch, optimizer)]

        def make(module: VAE) -> Callable[..., Sequence[Tensor]]:
            return step_of(Loss(module), decay_of(optimizer), list(trained), list(kept), batch.share)

        try:
            self.graph = graphs.build(make, self.module, inputs, self.build)
        except graphs.Refused as error:
            self.refuse(str(error))

    def settings(self, optimizer: Optimizer) -> object:
        """What a graph has built in."""
        return graphs.settings([decay_of(optimizer), *self.module.children()])

    def check(self, optimizer: Optimizer) -> None:
        """Leaves the graph if what it has built in has changed."""
        self.epoch = self.module.current_epoch
        if self.settings(optimizer) != self.built_in:
            self.refuse("a setting of the model, its objective or the optimizer was changed while it trained")

    def refuse(self, reason: str) -> None:
        """Says why nothing is compiled; from now on every step is done as it was."""
        self.refused, self.graph = True, None
        log.warning("trainer.compile: the optimiser step is not compiled: %s", reason)


def unsuited(batch: Batch, optimizer: Optimizer, parameters: Sequence[nn.Parameter]) -> str | None:
    """Why such a step has no graph here."""
    if batch.x.device.type != "cpu":
        return "it is made for a CPU"
    group = optimizer.param_groups[0]
    if type(optimizer) not in (Adam, AdamW) or any(group[name] != value for name, value in PLAIN.items()):
        return "the optimizer must be Adam or AdamW, without amsgrad or maximize"
    if any(parameter not in optimizer.state for parameter in parameters):
        return "a parameter had no gradient in the first step"
    return None
