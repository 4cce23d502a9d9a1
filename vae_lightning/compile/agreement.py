"""Whether a compiled step computes what the plain step computes, shown on one batch."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from vae_lightning.compile.state import StepState

TOLERANCE = 1e-4  # of the norm of a difference, relative to the norm


class Outcome(NamedTuple):
    """What one step from a given state gives."""

    sums: Tensor  # of the batch's terms, (3,)
    moments: list[Tensor]  # first moments before the step
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
    differences = {"the loss terms differ": relative_difference(found.sums, expected.sums)}
    for number, name in enumerate(state.trained):
        differences[f"the gradient of {name} differs"] = relative_difference(
            found.gradients[number], expected.gradients[number], expected.moments[number]
        )
        differences[f"the updated {name} differs"] = relative_difference(
            found.parameters[number], expected.parameters[number]
        )
    wrong = {what: value for what, value in differences.items() if not value <= tolerance}
    return next((f"{what} by {value:.1e}" for what, value in wrong.items()), None)


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
        updated = [parameter.clone() for parameter in state.parameters]
        return Outcome(sums, before, gradients, updated)


def relative_difference(found: Tensor, expected: Tensor, resolution: Tensor | None = None) -> float:
    """The norm of the difference over the norm of the expected value; 0 without a difference.

    The norm is at least that of ``resolution``: a gradient much smaller than its moment is lost in
    the rounding of the moment.
    """
    difference = float(torch.linalg.vector_norm(found.double() - expected.double()))
    norm = float(torch.linalg.vector_norm(expected.double()))
    if resolution is not None:
        norm = max(norm, float(torch.linalg.vector_norm(resolution.double())))
    if difference == 0:
        return 0.0
    return difference / norm if norm > 0 else math.inf
