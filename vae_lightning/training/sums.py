"""Sums over the images of an epoch, from which the means are computed that are logged."""

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor

from vae_lightning.checks.errors import NotFinite
from vae_lightning.objectives import Terms


def term_sums(loss_sum: Tensor, terms: Terms) -> Tensor:
    """Sums over a batch of loss (given, ()), recon and KL, without a gradient: (3,)."""
    with torch.no_grad():
        return torch.stack([loss_sum, terms.mean_recon.sum(), terms.kl.sum()])


class EpochSums:
    """Sums of loss, recon and KL over the images of an epoch so far, and the number of images.

    The sums are float64 (float32 on a device without float64) and stay on the device: nothing
    waits for the device until ``finish`` is called.
    """

    def __init__(self) -> None:
        self.terms: Tensor | None = None  # (3,): loss, recon, KL; None before any image
        self.images = 0.0  # a share of them after a resume with another number of processes
        self.finished_images = 0  # images of the last epoch that was finished

    def add(self, sums: Tensor, images: int) -> None:
        """Adds the sums (3,) of a batch with this number of images."""
        if self.terms is None:
            self.terms = zeros(sums.device)
        elif self.terms.device != sums.device:  # the sums were loaded from a checkpoint
            self.terms = self.terms.to(sums.device)
        self.terms.add_(sums)
        self.images += images

    def check(self) -> None:
        """Raises NotFinite if a sum is not finite; waits for the device."""
        if self.terms is not None and not bool(self.terms.isfinite().all()):
            raise NotFinite("a term of the loss is not finite")

    def means(self) -> list[float]:
        """Means of loss, recon and KL over the images of this process so far."""
        assert self.terms is not None
        return (self.terms / self.images).tolist()

    def finish(self, strategy: Strategy) -> tuple[float, float, float]:
        """Means of loss, recon and KL over the images of all processes; starts the next epoch."""
        loss, recon, kl, images = self.total(strategy).tolist()
        self.terms, self.images = None, 0.0
        self.finished_images = int(images)
        return loss / images, recon / images, kl / images

    def total(self, strategy: Strategy) -> Tensor:
        """The sums over the images of all processes and the number of these images, (4,)."""
        terms = zeros(strategy.root_device) if self.terms is None else self.terms
        return strategy.reduce(torch.cat([terms, terms.new_tensor([self.images])]), reduce_op="sum")

    def state(self, strategy: Strategy) -> Tensor:
        """What a checkpoint holds: an equal share of the total for each process."""
        # as Lightning itself asks for it, because not every Strategy declares it
        return self.total(strategy) / getattr(strategy, "world_size", 1)

    def load(self, state: Tensor) -> None:
        """Continues from the state in a checkpoint."""
        self.terms, self.images = state[:3].clone(), state[3].item()


def zeros(device: torch.device) -> Tensor:
    """No images yet, (3,)."""
    dtype = torch.float32 if device.type == "mps" else torch.float64
    return torch.zeros(3, dtype=dtype, device=device)
