"""Batches of images that are kept as one uint8 tensor on the device.

Batches are made by indexing, without worker processes and without a Python call per image.
Shapes: N images, B images of a batch, C H W of an image.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from vae_lightning.networks.conditional import UNCONDITIONAL, Condition

# images that are taken at once: their float32 pixels stay in a processor's cache
TAKEN_AT_ONCE = 512
# the last bits of a matrix product may depend on where its factors lie in memory; a resumed run
# must put every batch where the uninterrupted one did
ALIGNMENT_BYTES = 64


class Batch(NamedTuple):
    """The part of a global batch that one process takes."""

    x: Tensor  # (B, C, H, W), float32 in [0, 1]
    # positions of the images in their split, (B,)
    index: Tensor  # pyright: ignore[reportIncompatibleMethodOverride] - hides tuple.index, which is not used
    # (images of the global batch) / (processes). A sum over x divided by the share is a mean; its
    # average over the processes is the mean over the global batch.
    share: float
    condition: Condition = UNCONDITIONAL  # labels of the images, for a conditional model


def keep_pixels(x: Tensor, *_: int) -> Tensor:
    """Returns x (B, C, H, W) unchanged: the default for pixels that are not resampled per step."""
    return x


def num_batches(count: int, size: int) -> int:
    """Number of batches of the given size; the last batch may be smaller."""
    return -(-count // size)


class Batches:
    """The batches of one split for one process.

    Process r of R takes every R-th image of each global batch, starting with the r-th. No image is
    repeated or left out.

    Args:
        images: all images of the split (N, C, H, W), uint8.
        batch_size: images of a global batch.
        rank: number of this process, r.
        processes: number of processes, R.
        order: maps the epoch to the order of the images, a permutation (N,).
        pixels: maps x in [0, 1], the epoch and the number of the batch to the pixels of the batch.
        position: returns (epoch, batches of this epoch that are already done). It is called when
            the first batch of an epoch is requested.
        condition: labels of all images, for a conditional model.
        count: number of batches that are used; None: all.
        ends: if given, the iterator yields iterators over groups of batches, which create each
            batch on request. These are the batches after which the groups end.
        last: batch of the first epoch after which a group ends in any case, counted on in the next
            epochs; the training ends there.
        device: of the batches; None: that of the images.
        reads_ahead: read the images of the next batches in a thread, because they are in a file.
    """

    def __init__(
        self,
        images: Tensor,
        batch_size: int,
        rank: int,
        processes: int,
        order: Callable[[int], Tensor],
        pixels: Callable[[Tensor, int, int], Tensor] = keep_pixels,
        position: Callable[[], tuple[int, int]] = lambda: (0, 0),
        condition: Condition = UNCONDITIONAL,
        count: int | None = None,
        ends: Sequence[int] | None = None,
        last: int | None = None,
        device: torch.device | None = None,
        reads_ahead: bool = False,
    ) -> None:
        self.images, self.batch_size = images, batch_size
        self.rank, self.processes = rank, processes
        self.order, self.pixels, self.position, self.condition = order, pixels, position, condition
        self.count = num_batches(len(images), batch_size) if count is None else count
        self.ends, self.last = ends, last
        self.device, self.reads_ahead = device or images.device, reads_ahead

    def __len__(self) -> int:
        return self.count if self.ends is None else len(self.ends)

    def __iter__(self) -> Iterator[Batch | Iterator[Batch]]:
        epoch, done = self.position()
        order = self.order(epoch).to(self.images.device)
        done %= self.count
        ends = set(range(done + 1, self.count + 1)) if self.ends is None else set(self.ends)
        if self.last is not None and done < self.last - epoch * self.count < self.count:
            ends.add(self.last - epoch * self.count)
        with ThreadPoolExecutor(1) as reader:
            for end in sorted(end for end in ends if end > done):
                if self.reads_ahead:
                    start = end * self.batch_size
                    length = max((end - done) * self.batch_size, TAKEN_AT_ONCE)
                    reader.submit(self.images.index_select, 0, order[start : start + length])
                batches = self.batches(order, epoch, done, end)
                yield next(batches) if self.ends is None else batches
                done = end

    def batches(self, order: Tensor, epoch: int, first: int, end: int) -> Iterator[Batch]:
        """This process's parts of the batches from first to end - 1, images in ``order`` (N,)."""
        size = self.batch_size
        is_aligned = self.processes == 1 and self.images[0].numel() * 4 % ALIGNMENT_BYTES == 0
        step = max(1, TAKEN_AT_ONCE // size) if is_aligned else 1
        for start in range(first, end, step):
            chunks = order[start * size : min(start + step, end) * size].split(size)
            parts = [chunk[self.rank :: self.processes] for chunk in chunks]
            taken = self.images.index_select(0, torch.cat(parts)).to(self.device)
            images = taken.float().div_(255).split([len(part) for part in parts])
            for number, (x, part) in enumerate(zip(images, parts, strict=True), start):
                share = len(chunks[number - start]) / self.processes
                index = part.to(self.device)
                condition = self.condition.take(index)
                yield Batch(self.pixels(x, epoch, number), index, share, condition)
