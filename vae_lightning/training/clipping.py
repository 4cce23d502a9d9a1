"""Limits of the gradient: trainer.gradient_clip_val and trainer.gradient_clip_algorithm."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

EPSILON = 1e-6  # as in torch.nn.utils.clip_grad_norm_


class Clipping(NamedTuple):
    """Makes a gradient smaller if it exceeds a limit."""

    limit: float
    algorithm: str  # norm: of the gradient as a whole; value: of each of its numbers

    def clip_(self, parameters: Iterable[Tensor]) -> None:
        """Clips the gradients that the parameters hold, in place."""
        if self.algorithm == "norm":
            nn.utils.clip_grad_norm_(parameters, self.limit)
        else:
            nn.utils.clip_grad_value_(parameters, self.limit)

    def factor(self, gradients: Sequence[Tensor]) -> Tensor:
        """What the gradients must be multiplied by so that their norm has the limit, ()."""
        norm = torch.linalg.vector_norm(torch.stack([*map(torch.linalg.vector_norm, gradients)]))
        return (self.limit / (norm + EPSILON)).clamp(max=1.0)

    def clipped(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """The clipped gradients, as ``clip_`` computes them."""
        if self.algorithm == "value":
            return [gradient.clamp(-self.limit, self.limit) for gradient in gradients]
        factor = self.factor(gradients)
        return [gradient * factor for gradient in gradients]
