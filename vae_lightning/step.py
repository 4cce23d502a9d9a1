"""One optimiser step, forward, gradient and Adam, as a function of tensors alone, which can be traced."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from vae_lightning.annealing import Annealing
from vae_lightning.data import Batch
from vae_lightning.module import VAE

Tensors = dict[str, Tensor]


@dataclass(frozen=True, eq=False, repr=False)
class OptimiserStep:
    """Any optimiser step: a graph knows the factor of its annealing, (), and not its number."""

    factor: Tensor

    def __eq__(self, *_: object) -> bool:
        raise TypeError("a compiled step has no number")

    __bool__ = __hash__ = __repr__ = __format__ = __eq__


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
    loss: Callable[[Tensors], tuple[Tensor, Tensor]],
    decay: str,
    parameters: Tensors,
    first: Tensors,
    second: Tensors,
    scalars: Sequence[Tensor],
) -> Tensor:
    """One step of Adam(W), in place; returns the second value of ``loss(parameters)``, the sums of its terms, (3,).

    Kingma & Ba 2015, https://arxiv.org/abs/1412.6980. ``first`` and ``second`` are the moments. ``decay`` of the
    weights: ``none``, ``gradient`` (Adam) or ``weights`` (AdamW). ``scalars``, at step t: 1 - beta1, beta2, 1 - beta2,
    lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t), eps, the weight decay (in AdamW times lr).
    """
    one_beta1, beta2, one_beta2, rate, scale, eps, weight = scalars
    gradients, (_, sums) = torch.func.grad_and_value(loss, has_aux=True)(parameters)
    for name, parameter in parameters.items():
        # where there is no decay, adding 0 times the weights would be another pass over them
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
    """An optimiser step as a function of tensors alone, which returns the sums of the batch's terms, (3,).

    The tensors: the parameters of these names, their first and second moments; other parameters and buffers of these
    names; x, noise, the annealing's factor with the scalars of ``adam``, (8,), labels.
    """

    def step(*tensors: Tensor) -> tuple[Tensor]:
        rest = iter(tensors)
        parameters, first, second = ({name: next(rest) for name in trained} for _ in range(3))
        others = {name: next(rest) for name in kept}
        x, noise, scalars, *condition = rest
        factor, *coefficients = scalars.unbind()
        batch = Batch(x, torch.empty(0), share, tuple(condition))

        def of(values: Tensors) -> tuple[Tensor, Tensor]:
            return torch.func.functional_call(loss, (values, others), (batch, noise, factor))

        return (adam(of, decay, parameters, first, second, coefficients),)

    return step


def decay_of(optimizer: Optimizer) -> str:
    """``decay`` of ``adam``."""
    if not optimizer.param_groups[0]["weight_decay"]:
        return "none"
    return "weights" if isinstance(optimizer, AdamW) else "gradient"


def coefficients(optimizer: Optimizer, count: float) -> list[float]:
    """``scalars`` of ``adam`` at the step of that number, from 1."""
    group = optimizer.param_groups[0]
    (beta1, beta2), rate, weight = group["betas"], float(group["lr"]), group["weight_decay"]
    return [
        *(1 - beta1, beta2, 1 - beta2, rate / (1 - beta1**count), (1 - beta2**count) ** -0.5, group["eps"]),
        rate * weight if isinstance(optimizer, AdamW) else weight,
    ]
