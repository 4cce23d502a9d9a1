"""Sums over the images of an epoch, from which the means are computed that are logged."""

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor

from vae_lightning.checks.errors import NotFinite
from vae_lightning.objectives import Terms


def term_sums(loss_sum: Tensor, terms: Terms) -> Tensor:
    """Sums over a batch of loss (given, ()), recon, KL and KL of each layer, without a gradient.

    (T,), where T is 3 and the number of stochastic layers, if there are several.
    """
    with torch.no_grad():
        layers = [kl.sum() for kl in terms.layer_kl]
        return torch.stack([loss_sum, terms.mean_recon.sum(), terms.kl.sum(), *layers])


class EpochSums:
    """Sums of the terms over the images of an epoch so far, and the number of images.

    The sums are float64 (float32 on a device without float64) and stay on the device: nothing
    waits for the device until ``finish`` is called.
    """

    def __init__(self) -> None:
        self.terms: Tensor | None = None  # (T,), see term_sums; None before any image
        self.images = 0.0  # a share of them after a resume with another number of processes
        self.finished_images = 0  # images of the last epoch that was finished

    def add(self, sums: Tensor, images: int) -> None:
        """Adds the sums (T,) of a batch with this number of images."""
        if self.terms is None or not self.images:
            self.terms = zeros(len(sums), sums.device)
        elif self.terms.device != sums.device:  # the sums were loaded from a checkpoint
            self.terms = self.terms.to(sums.device)
        self.terms.add_(sums)
        self.images += images

    def check(self) -> None:
        """Raises NotFinite if a sum is not finite; waits for the device."""
        if self.terms is not None and not bool(self.terms.isfinite().all()):
            raise NotFinite("a term of the loss is not finite")

    def means(self) -> list[float]:
        """Means of the terms over the images of this process so far."""
        assert self.terms is not None
        return (self.terms / self.images).tolist()

    def snapshot(self) -> Tensor:
        """A copy of the sums and the number of images so far, (T + 1,), or (1,) without images."""
        if self.terms is None or not self.images:
            return torch.zeros(1)
        return torch.cat([self.terms, self.terms.new_tensor([self.images])])

    def means_since(self, before: Tensor) -> list[float]:
        """Means of the terms over the images since a snapshot; waits for the device."""
        now = self.snapshot()
        *sums, images = (now - before.to(now.device)).tolist()
        return [each / images for each in sums]

    def finish(self, strategy: Strategy) -> list[float]:
        """Means of the terms over the images of all processes; starts the next epoch."""
        *sums, images = self.total(strategy).tolist()
        self.terms, self.images = None, 0.0
        self.finished_images = int(images)
        return [each / images for each in sums]

    def total(self, strategy: Strategy) -> Tensor:
        """The sums over the images of all processes and the number of these images, (T + 1,)."""
        terms = zeros(3, strategy.root_device) if self.terms is None else self.terms
        return strategy.reduce(torch.cat([terms, terms.new_tensor([self.images])]), reduce_op="sum")

    def state(self, strategy: Strategy) -> Tensor:
        """What a checkpoint holds: an equal share of the total for each process."""
        # as Lightning itself asks for it, because not every Strategy declares it
        return self.total(strategy) / getattr(strategy, "world_size", 1)

    def load(self, state: Tensor) -> None:
        """Continues from the state in a checkpoint."""
        self.terms, self.images = state[:-1].clone(), state[-1].item()


def zeros(count: int, device: torch.device) -> Tensor:
    """No images yet, (count,)."""
    dtype = torch.float32 if device.type == "mps" else torch.float64
    return torch.zeros(count, dtype=dtype, device=device)
