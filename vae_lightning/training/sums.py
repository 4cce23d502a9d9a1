"""Sums over the images of an epoch, from which the means are computed that are logged."""

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor

from vae_lightning.objectives import Terms


def term_sums(loss: Tensor, terms: Terms) -> Tensor:
    """Sums of the loss (B,), recon and KL over the images of a batch, without a gradient: (3,)."""
    return torch.stack([loss.sum(), terms.recon.mean(0).sum(), terms.kl.sum()]).detach()


class EpochSums:
    """Sums of loss, recon and KL over the images of an epoch so far, and the number of images.

    The sums are float64 (float32 on a device without float64) and stay on the device: nothing
    waits for the device until ``finish`` is called.
    """

    def __init__(self) -> None:
        self.values: Tensor | None = None  # (4,): loss, recon, KL, images; None before any image
        self.finished_images = 0  # images of the last epoch that was finished

    def add(self, sums: Tensor, images: int) -> None:
        """Adds the sums (3,) of a batch with this number of images."""
        if self.values is None:
            self.values = zeros(sums.device)
        elif self.values.device != sums.device:  # the sums were loaded from a checkpoint
            self.values = self.values.to(sums.device)
        self.values[:3].add_(sums)  # += would copy the sums to themselves
        self.values[3].add_(images)

    def finish(self, strategy: Strategy) -> tuple[float, float, float]:
        """Means of loss, recon and KL over the images of all processes; starts the next epoch."""
        loss, recon, kl, images = self.total(strategy).tolist()
        self.values = None
        self.finished_images = int(images)
        return loss / images, recon / images, kl / images

    def total(self, strategy: Strategy) -> Tensor:
        """The sums over the images of all processes, (4,)."""
        own = zeros(strategy.root_device) if self.values is None else self.values.clone()
        return strategy.reduce(own, reduce_op="sum")

    def state(self, strategy: Strategy) -> Tensor:
        """What a checkpoint holds: an equal share of the total for each process."""
        # as Lightning itself asks for it, because not every Strategy declares it
        return self.total(strategy) / getattr(strategy, "world_size", 1)

    def load(self, state: Tensor) -> None:
        """Continues from the state in a checkpoint."""
        self.values = state


def zeros(device: torch.device) -> Tensor:
    """No images yet, (4,)."""
    dtype = torch.float32 if device.type == "mps" else torch.float64
    return torch.zeros(4, dtype=dtype, device=device)
