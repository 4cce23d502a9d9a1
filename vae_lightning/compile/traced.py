"""One optimizer step, forward, gradient and Adam, as a function of tensors that can be traced."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from vae_lightning.data.batches import Batch
from vae_lightning.networks import Condition
from vae_lightning.objectives.annealing import Annealing
from vae_lightning.training.clipping import Clipping
from vae_lightning.training.module import VAE
from vae_lightning.training.sums import term_sums

Tensors = dict[str, Tensor]


@dataclass(frozen=True, eq=False, repr=False)
class TracedStep:
    """The number of any optimizer step: a graph knows the factor of its annealing, (), alone.

    Code that asks for the number itself cannot be traced: it raises TypeError.
    """

    factor: Tensor

    def __eq__(self, *_: object) -> NoReturn:
        raise TypeError("a compiled step has no number")

    __bool__ = __hash__ = __repr__ = __format__ = __eq__


class TracedAnnealing(Annealing):
    """An annealing whose factor is an input of the compiled graph."""

    def __init__(self, annealing: Annealing) -> None:
        self.annealing = annealing

    def __call__(self, step: int | TracedStep) -> float | Tensor:  # pyright: ignore[reportIncompatibleMethodOverride] - in a graph, the factor is a tensor
        """The factor at this optimizer step."""
        return step.factor if isinstance(step, TracedStep) else self.annealing(step)


class Loss(nn.Module):
    """The loss of a batch, as a module whose parameters are those of the VAE."""

    vae: VAE

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, batch: Batch, noise: Tensor, step: int | TracedStep) -> tuple[Tensor, Tensor]:
        """The mean loss of the batch, (), and the sums of its terms, (3,)."""
        terms = self.vae(batch.x, noise, batch.condition)
        loss = self.vae.objective(terms, step).sum()
        return loss / batch.share, term_sums(loss, terms)


def adam(
    loss: Callable[[Tensors], tuple[Tensor, Tensor]],
    decay: str,
    clipping: Clipping | None,
    parameters: Tensors,
    first: Tensors,
    second: Tensors,
    scalars: Sequence[Tensor],
) -> Tensor:
    """One step of Adam or AdamW, in place; returns the second value of ``loss``, (3,).

    Kingma & Ba 2015, https://arxiv.org/abs/1412.6980.

    Args:
        loss: the parameters -> the loss, (), and the sums of its terms, (3,).
        decay: of the weights: ``none``, ``gradient`` (Adam) or ``weights`` (AdamW).
        clipping: of the gradient.
        parameters: the trained parameters by name.
        first: their first moments.
        second: their second moments.
        scalars: at step t: 1 - beta1, beta2, 1 - beta2, lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t),
            eps, and the weight decay (in AdamW times lr).
    """
    one_beta1, beta2, one_beta2, rate, scale, eps, weight = scalars
    gradients, (_, sums) = torch.func.grad_and_value(loss, has_aux=True)(parameters)
    if clipping is not None:
        gradients = dict(zip(gradients, clipping.clipped([*gradients.values()]), strict=True))
    for name, parameter in parameters.items():
        # without decay, adding 0 times the weights would be another pass over them
        gradient = gradients[name] + weight * parameter if decay == "gradient" else gradients[name]
        kept = parameter * (1 - weight) if decay == "weights" else parameter
        moment, square = first[name], second[name]
        moment.copy_(moment + one_beta1 * (gradient - moment))
        square.copy_(beta2 * square + one_beta2 * gradient * gradient)
        parameter.copy_(kept - rate * moment / (square.sqrt() * scale + eps))
    return sums


def step_of(
    loss: Loss, decay: str, trained: Sequence[str], kept: Sequence[str], share: float
) -> Callable[..., tuple[Tensor]]:
    """An optimizer step as a function of tensors, which returns the sums of the terms, (3,).

    Its arguments: the trained parameters, their first and second moments; the parameters and
    buffers that are kept; x, noise, the annealing factor with the scalars of ``adam``, (8,); and
    the labels of a conditional model.
    """

    def step(*tensors: Tensor) -> tuple[Tensor]:
        rest = iter(tensors)
        parameters, first, second = ({name: next(rest) for name in trained} for _ in range(3))
        others = {name: next(rest) for name in kept}
        x, noise, scalars, *labels = rest
        factor, *coefficients = scalars.unbind()
        batch = Batch(x, torch.empty(0), share, Condition(*labels))
        arguments = (batch, noise, TracedStep(factor))

        def loss_of(values: Tensors) -> tuple[Tensor, Tensor]:
            return torch.func.functional_call(loss, (values, others), arguments)

        return (adam(loss_of, decay, loss.vae.clipping, parameters, first, second, coefficients),)

    return step


def decay_of(optimizer: Optimizer) -> str:
    """The argument ``decay`` of ``adam`` for an optimizer."""
    if not optimizer.param_groups[0]["weight_decay"]:
        return "none"
    return "weights" if isinstance(optimizer, AdamW) else "gradient"


def coefficients(optimizer: Optimizer, count: float) -> list[float]:
    """The argument ``scalars`` of ``adam`` at the step with this number, counted from 1."""
    group = optimizer.param_groups[0]
    (beta1, beta2), rate, weight = group["betas"], float(group["lr"]), group["weight_decay"]
    return [
        1 - beta1,
        beta2,
        1 - beta2,
        rate / (1 - beta1**count),
        (1 - beta2**count) ** -0.5,
        group["eps"],
        rate * weight if isinstance(optimizer, AdamW) else weight,
    ]
