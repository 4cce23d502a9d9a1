"""The plain optimizer step without the work that ``Optimizer.step`` does around Adam's kernel."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.adam import adam

from vae_lightning.compile.state import is_plain_adam
from vae_lightning.data.batches import Batch
from vae_lightning.training.module import VAE


class DirectStep:
    """Takes the optimizer steps of ``VAE.take_step``, bit for bit, in less time for small batches.

    Autograd returns the gradients instead of storing them in the parameters, and the kernel of Adam
    or AdamW is called with lists of tensors that are collected once. The first step, which makes
    the optimizer's state, and the steps of other optimizers are those of ``VAE.take_step``.
    """

    def __init__(self, module: VAE) -> None:
        self.module = module
        self.epoch = -1  # a callback may freeze parameters between epochs
        self.parameters: list[Tensor] = []

    def __call__(self, batch: Batch, optimizer: Optimizer, step: int) -> None:
        """Takes one optimizer step."""
        if not self.parameters or self.epoch != self.module.current_epoch:
            self.collect(optimizer)
        if not self.parameters:
            self.module.take_step(batch, optimizer, step)
            return
        gradients = self.gradients(self.module.loss(batch, step))
        if self.module.skips(gradients):
            return
        if self.module.clipping is not None:
            self.module.clipping.clip_(self.parameters)
        self.update(optimizer, gradients)

    def gradients(self, loss: Tensor) -> Sequence[Tensor | None]:
        """The gradient of each parameter; None: the loss did not use it.

        The parameters hold the gradients if these are to be clipped, in place: no two stored ones
        share memory.
        """
        if self.module.clipping is None:
            return torch.autograd.grad(loss, self.parameters, allow_unused=True)
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        return [parameter.grad for parameter in self.parameters]

    def collect(self, optimizer: Optimizer) -> None:
        """Collects parameters, moments and step counts.

        The lists stay empty if PyTorch's fused Adam cannot be called.
        """
        self.epoch = self.module.current_epoch
        trained = [each for each in self.module.parameters() if each.requires_grad]
        states = [optimizer.state[each] for each in trained if each in optimizer.state]
        fused = is_plain_adam(optimizer) and optimizer.param_groups[0]["fused"]
        self.parameters = [*trained] if fused and len(states) == len(trained) else []
        if self.parameters:
            self.first, self.second, self.counts = (
                [state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step")
            )

    @torch.no_grad()
    def update(self, optimizer: Optimizer, gradients: Sequence[Tensor | None]) -> None:
        """Moves the parameters by one step of Adam or AdamW; None: the loss did not use one."""
        rows = zip(self.parameters, gradients, self.first, self.second, self.counts, strict=True)
        parameters, used, first, second, counts = (
            [*column] for column in zip(*(row for row in rows if row[1] is not None), strict=True)
        )
        group = optimizer.param_groups[0]
        adam(
            parameters,
            used,
            first,
            second,
            [],
            counts,
            fused=True,
            decoupled_weight_decay=isinstance(optimizer, AdamW),
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
