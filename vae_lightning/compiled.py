"""The optimiser step as one compiled graph: forward, gradient and Adam, with no Python between the operations.

It replaces ``VAE.optimize``; its results agree with those of the plain step up to the rounding of float32.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed, TorchDynamoException
from torch.optim import Adam, AdamW, Optimizer

from vae_lightning.annealing import Annealing, Constant
from vae_lightning.data import Batch
from vae_lightning.module import VAE

log = logging.getLogger(__name__)

Tensors = dict[str, Tensor]
PLAIN = {"amsgrad": False, "maximize": False, "differentiable": False}  # of Adam
UNBUILT = "PyTorch traced it, but could not build it, which takes a C++ compiler"
UNTRACED = (
    "the model or its objective needs the number of the step (mmd), changes its buffers (geco, an optimal scale), or"
    " does something else that PyTorch cannot trace"
)
INDUCTOR = {
    "cpp_wrapper": True,
    "cpp.vec_isa_ok": True,  # else it compiles a program for each instruction set, to see whether it can: four seconds
    "layout_optimization": False,  # turning images to channels-last and back costs convolutions more than it gains
}


@dataclass(frozen=True, eq=False)
class OptimiserStep:
    """Any optimiser step: a graph knows the factor of its annealing, (), and not its number."""

    factor: Tensor

    def __eq__(self, other: object) -> bool:
        raise TypeError("a compiled step has no number")

    __bool__ = __hash__ = __eq__


class Given(Annealing):
    """Another annealing, whose factor a graph is given."""

    def __init__(self, annealing: Annealing) -> None:
        self.annealing = annealing

    def __call__(self, step: int | OptimiserStep) -> float | Tensor:
        """The factor at this optimiser step."""
        return step.factor if isinstance(step, OptimiserStep) else self.annealing(step)


class Loss(nn.Module):
    """The loss of a batch as a function of the parameters alone, for torch.func."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, batch: Batch, noise: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of the batch, (), and the sums of its terms, (3,); what asks for the number of the step is refused."""
        loss, sums = self.vae.measure(batch, noise, OptimiserStep(factor))
        return loss.sum() / batch.share, sums


def adam(
    loss: Loss,
    decay: str,
    parameters: Tensors,
    first: Tensors,
    second: Tensors,
    batch: Batch,
    noise: Tensor,
    scalars: Tensor,
) -> Tensor:
    """One step of Adam(W) on the batch, in place; returns the sums of its terms, (3,).

    Kingma & Ba 2015, https://arxiv.org/abs/1412.6980. ``first`` and ``second`` are the moments. ``decay`` of the
    weights: ``none``, ``gradient`` (Adam) or ``weights`` (AdamW). ``scalars``, at step t: the annealing's factor,
    1 - beta1, beta2, 1 - beta2, lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t), eps, the weight decay (in AdamW times lr).
    """
    factor, one_beta1, beta2, one_beta2, rate, scale, eps, weight = scalars.unbind()

    def of(values: Tensors) -> tuple[Tensor, Tensor]:
        return torch.func.functional_call(loss, values, (batch, noise, factor))

    gradients, (_, sums) = torch.func.grad_and_value(of, has_aux=True)(parameters)
    for name, parameter in parameters.items():
        # where there is no decay, adding 0 times the weights would be another pass over them
        gradient = gradients[name] + weight * parameter if decay == "gradient" else gradients[name]
        kept = parameter * (1 - weight) if decay == "weights" else parameter
        moment, square = first[name], second[name]
        moment.copy_(moment + one_beta1 * (gradient - moment))
        square.copy_(beta2 * square + one_beta2 * gradient * gradient)
        parameter.copy_(kept - rate * moment / (square.sqrt() * scale + eps))
    return sums


class CompiledStep:
    """``optimize(batch, optimizer)`` of a module, by a graph where that is possible, and as it was where it is not.

    The first step, which makes the optimiser's state, and batches of another size are done as they were. A model, an
    objective or a machine that cannot be compiled is named once in the log.

    Args:
        module: of which it is a step.
        size: images of a batch.
        backend: of torch.compile.
    """

    def __init__(self, module: VAE, size: int, backend: str = "inductor") -> None:
        self.module, self.loss, self.size = module, Loss(module), size
        self.annealing = getattr(module.objective, "annealing", Constant())
        module.objective.annealing = Given(self.annealing)
        options = INDUCTOR if backend == "inductor" else None
        self.graph = torch.compile(adam, backend=backend, fullgraph=True, dynamic=False, options=options)
        self.refused = False
        self.tensors: tuple[Tensors, Tensors, Tensors] | None = None  # parameters and their moments

    def __call__(self, batch: Batch, optimizer: Optimizer) -> None:
        """One optimiser step."""
        if self.tensors is None and not self.refused and optimizer.state:
            self.prepare(batch, optimizer)
        if self.tensors is None or len(batch.index) != self.size:
            VAE.optimize(self.module, batch, optimizer)
            return
        try:
            self.step(batch, optimizer)
        except TorchDynamoException as error:  # raised before anything is computed
            reason = UNBUILT if isinstance(error, BackendCompilerFailed) else UNTRACED
            self.refuse(f"{reason} ({str(error).strip().splitlines()[0]})")
            VAE.optimize(self.module, batch, optimizer)

    def prepare(self, batch: Batch, optimizer: Optimizer) -> None:
        """Takes hold of the parameters and the optimiser's state, once it is there, or says why there is no graph."""
        named = [(name, value) for name, value in self.loss.named_parameters() if value.requires_grad]
        if reason := unsuited(batch, optimizer, [value for _, value in named]):
            self.refuse(reason)
            return
        states = {name: optimizer.state[parameter] for name, parameter in named}
        moments = ({name: state[key] for name, state in states.items()} for key in ("exp_avg", "exp_avg_sq"))
        self.tensors = ({name: parameter.detach() for name, parameter in named}, *moments)
        self.counts = [state["step"] for state in states.values()]
        log.info("compiling the optimiser step, which takes some seconds")

    def step(self, batch: Batch, optimizer: Optimizer) -> None:
        """One step by the graph."""
        noise = self.module.training_noise(batch)
        decay, values = coefficients(optimizer, float(self.counts[0]) + 1)
        scalars = torch.tensor([self.annealing(self.module.global_step), *values])
        sums = self.graph(self.loss, decay, *self.tensors, batch, noise, scalars)
        torch._foreach_add_(self.counts, 1)
        self.module.add(sums, len(batch.index))

    def refuse(self, reason: str) -> None:
        """Says why nothing is compiled; from now on every step is done as it was."""
        self.refused, self.tensors = True, None
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


def coefficients(optimizer: Optimizer, count: float) -> tuple[str, list[float]]:
    """``decay`` of ``adam``, and its ``scalars`` after the first, at the step of that number, from 1."""
    group = optimizer.param_groups[0]
    (beta1, beta2), rate, weight = group["betas"], float(group["lr"]), group["weight_decay"]
    decay = ("weights" if isinstance(optimizer, AdamW) else "gradient") if weight else "none"
    return decay, [
        *(1 - beta1, beta2, 1 - beta2, rate / (1 - beta1**count), (1 - beta2**count) ** -0.5, group["eps"]),
        rate * weight if decay == "weights" else weight,
    ]
