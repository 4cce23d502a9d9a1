"""Whether a compiled step computes what the plain step computes, shown on one batch."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from vae_lightning.compile.state import StepState

TOLERANCE = 1e-4  # of the norm of a difference, relative to the norm


class Outcome(NamedTuple):
    """What one step from a given state gives."""

    sums: Tensor  # of the batch's terms, (3,)
    gradients: list[Tensor]
    parameters: list[Tensor]  # updated


def disagreement(
    state: StepState,
    beta1: float,
    plain: Callable[[], Tensor],
    compiled: Callable[[], Tensor],
    tolerance: float = TOLERANCE,
) -> str | None:
    """What differs between a plain and a compiled step from the same state; None if nothing does.

    The loss terms are compared, and for each parameter the norm of the difference relative to the
    norm, of the gradient and of the updated parameter. Afterwards the state is bit-equal to before.

    Args:
        state: the state that both steps change.
        beta1: of Adam; the gradient is computed from the change of the first moment.
        plain: takes one step and returns the sums of the batch's terms, (3,).
        compiled: does the same by the graph.
        tolerance: the largest relative difference that is allowed.
    """
    expected, found = outcome(state, beta1, plain), outcome(state, beta1, compiled)
    pairs = {"the loss terms": (found.sums, expected.sums)}
    for number, name in enumerate(state.trained):
        pairs[f"the gradient of {name}"] = (found.gradients[number], expected.gradients[number])
        pairs[f"the updated {name}"] = (found.parameters[number], expected.parameters[number])
    for what, (one, other) in pairs.items():
        difference = relative_difference(one, other)
        if not difference <= tolerance:
            return f"{what} differ{'' if what.endswith('terms') else 's'} by {difference:.1e}"
    return None


def outcome(state: StepState, beta1: float, step: Callable[[], Tensor]) -> Outcome:
    """What the step gives; the state is as before."""
    before = [moment.clone() for moment in state.first]
    with state.unchanged():
        sums = step().clone()
        # Adam: m' = beta1 m + (1 - beta1) g
        gradients = [
            (after.double() - beta1 * moment.double()) / (1 - beta1)
            for after, moment in zip(state.first, before, strict=True)
        ]
        return Outcome(sums, gradients, [parameter.clone() for parameter in state.parameters])


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference over the norm of the expected value; 0 if both are zero."""
    difference = torch.linalg.vector_norm(found.double() - expected.double())
    norm = torch.linalg.vector_norm(expected.double())
    return float(difference / norm) if difference != 0 else 0.0
