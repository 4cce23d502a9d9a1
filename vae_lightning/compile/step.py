"""The optimizer step as one compiled graph: forward, gradient and Adam without Python between.

Its results agree with those of ``VAE.take_step`` up to the rounding of float32, which is checked
before the graph is used.
"""

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vae_lightning.compile import agreement, graphs
from vae_lightning.compile.state import StepState, is_plain_adam
from vae_lightning.compile.traced import Loss, TracedAnnealing, coefficients, decay_of, step_of
from vae_lightning.data.batches import Batch
from vae_lightning.objectives.annealing import Constant
from vae_lightning.training.module import VAE

log = logging.getLogger(__name__)


class CompiledStep:
    """A function that takes optimizer steps by a graph where that is possible.

    The first step, which makes the optimizer's state, and batches of another size are plain steps.
    If the model, the objective or the machine does not allow a graph, or if the graph does not
    agree with the plain step, the log says so once and all steps are plain steps. A graph contains
    the numbers and choices of the model and the objective: if a callback changes one of them
    between epochs, all later steps are plain steps.

    Args:
        module: whose steps are taken.
        size: images of a batch.
        build: compiles the traced operations.
    """

    def __init__(self, module: VAE, size: int, build: graphs.Builder = graphs.inductor) -> None:
        self.module, self.size, self.build = module, size, build
        self.annealing = getattr(module.objective, "annealing", Constant())
        self.graph: graphs.Graph | None = None
        self.refused = False

    def __call__(self, batch: Batch, optimizer: Optimizer, step: int) -> None:
        """Takes one optimizer step."""
        if self.refused or len(batch.index) != self.size or not optimizer.state:
            self.module.take_step(batch, optimizer, step)
            return
        if self.graph is None:
            self.prepare(batch, optimizer, step)
        elif self.epoch != self.module.current_epoch:
            self.check_settings(optimizer)
        if self.graph is None:
            self.module.take_step(batch, optimizer, step)
            return
        sums = self.run(self.graph, batch, optimizer, step)
        self.module.sums["train"].add(sums, len(batch.index))

    def run(self, graph: graphs.Graph, batch: Batch, optimizer: Optimizer, step: int) -> Tensor:
        """Takes one step by the graph; the sums of the batch's terms, (3,)."""
        (sums,) = graph(*self.state.tensors, *self.inputs(batch, optimizer, step))
        self.state.counts.add_(1)
        return sums

    def inputs(self, batch: Batch, optimizer: Optimizer, step: int) -> list[Tensor]:
        """The inputs of one step: images, noise, annealing factor and Adam's scalars, labels."""
        values = coefficients(optimizer, float(self.state.counts[0]) + 1)
        scalars = torch.tensor([self.annealing(step), *values])
        noise = self.module.training_noise(batch, step)
        return [batch.x, noise, scalars, *batch.condition.tensors()]

    def prepare(self, batch: Batch, optimizer: Optimizer, step: int) -> None:
        """Builds the graph and checks it, or says why there is none."""
        reason = unsuited(batch, optimizer, list(self.module.parameters()))
        if self.module.skip_gradient_above is not None:
            reason = "trainer.skip_gradient_above needs the gradient before the step"
        if reason:
            self.refuse(reason)
            return
        log.info("compiling the optimizer step, which takes some seconds")
        state = self.state = StepState(Loss(self.module), optimizer)
        self.epoch, self.built_in = self.module.current_epoch, self.settings(optimizer)

        def make(module: VAE) -> Callable[..., Sequence[Tensor]]:
            if hasattr(module.objective, "annealing"):
                module.objective.annealing = TracedAnnealing(self.annealing)
            decay = decay_of(optimizer)
            return step_of(Loss(module), decay, state.trained, state.kept, batch.share)

        inputs = [*state.tensors, *self.inputs(batch, optimizer, step)]
        try:
            graph = graphs.build(make, self.module, inputs, self.build)
        except graphs.Refused as error:
            self.refuse(str(error))
            return
        self.check_agreement(graph, batch, optimizer, step)

    def check_agreement(
        self, graph: graphs.Graph, batch: Batch, optimizer: Optimizer, step: int
    ) -> None:
        """Takes the graph if it gives the same step as the module; else says what differs."""
        beta1 = optimizer.param_groups[0]["betas"][0]
        found = agreement.disagreement(
            self.state,
            beta1,
            plain=lambda: self.plain(batch, optimizer, step),
            compiled=lambda: self.run(graph, batch, optimizer, step),
        )
        if found:
            self.refuse(f"it does not agree with the plain step: {found}")
        else:
            self.graph = graph

    def plain(self, batch: Batch, optimizer: Optimizer, step: int) -> Tensor:
        """Takes one plain step; the sums of the batch's terms, (3,)."""
        optimizer.zero_grad()
        noise = self.module.training_noise(batch, step)
        loss, sums = Loss(self.module)(batch, noise, step)
        loss.backward()
        if (clipping := self.module.clipping) is not None:
            clipping.clip_(self.module.parameters())
        optimizer.step()
        return sums

    def settings(self, optimizer: Optimizer) -> object:
        """The numbers and choices that a graph contains."""
        return graphs.settings([decay_of(optimizer), *self.module.children()])

    def check_settings(self, optimizer: Optimizer) -> None:
        """Drops the graph if a number or choice that it contains has changed."""
        self.epoch = self.module.current_epoch
        if self.settings(optimizer) != self.built_in:
            self.refuse(
                "a setting of the model, its objective or the optimizer was changed during training"
            )

    def refuse(self, reason: str) -> None:
        """Says why there is no graph; from now on every step is a plain step."""
        self.refused, self.graph = True, None
        log.warning("trainer.compile: the optimizer step is not compiled: %s", reason)


def unsuited(batch: Batch, optimizer: Optimizer, parameters: Sequence[nn.Parameter]) -> str | None:
    """Why steps of this optimizer on this device have no graph; None if they have."""
    if batch.x.device.type != "cpu":
        return "graphs are for a CPU"
    if not is_plain_adam(optimizer):
        return "the optimizer must be Adam or AdamW, without amsgrad or maximize"
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if any(parameter not in optimizer.state for parameter in trained):
        return "a parameter had no gradient in the first step"
    return None
