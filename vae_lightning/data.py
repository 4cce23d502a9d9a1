"""The LightningDataModule: a whole image set as one uint8 tensor on the device, batched by indexing.

No worker processes and no Python per image. Shapes: N images, B of a batch, C H W of an image.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import Dataset

from vae_lightning import rng
from vae_lightning.datasets import SPLIT_SEED, stratified_order

EVALUATION_BATCH_SIZE = 500  # no value depends on it


class Batch(NamedTuple):
    """One process's images of a batch."""

    x: Tensor  # (B, C, H, W), float32 in [0, 1]
    index: Tensor  # positions of the images in their split, (B,)
    share: float  # images of the global batch / processes: what a sum over x is divided by to give a mean
    condition: tuple[Tensor, ...] = ()  # what a conditional model is told beside x: labels (B,)


def as_they_are(x: Tensor, *_: int) -> Tensor:
    """x (B, C, H, W) of a batch, not binarised at each step."""
    return x


def batches_in(count: int, size: int) -> int:
    """Number of batches of that size, the last one perhaps smaller."""
    return -(-count // size)


class Batches:
    """Batches of one split for one process: ``images`` (N, C, H, W) uint8 in the order that ``order(epoch)`` gives.

    ``position()`` is (epoch, batches of it already done), asked when an epoch's first batch is. Process r of R takes
    every R-th image of each global batch, so that no image is taken twice or left out. With ``group`` > 1 it yields
    iterators over so many batches each, which are made as they are asked for.
    """

    def __init__(
        self,
        images: Tensor,
        batch_size: int,
        rank: int,
        processes: int,
        order: Callable[[int], Tensor],
        pixels: Callable[[Tensor, int, int], Tensor] = as_they_are,
        position: Callable[[], tuple[int, int]] = lambda: (0, 0),
        conditions: Sequence[Tensor] = (),
        group: int = 1,
    ) -> None:
        self.images, self.batch_size, self.rank, self.processes = images, batch_size, rank, processes
        self.order, self.pixels, self.position, self.conditions = order, pixels, position, conditions
        self.group, self.count = group, batches_in(len(images), batch_size)

    def __len__(self) -> int:
        return batches_in(self.count, self.group)

    def __iter__(self) -> Iterator[Batch] | Iterator[Iterator[Batch]]:
        epoch, done = self.position()
        order = self.order(epoch).to(self.images.device)
        for first in range(done % self.count, self.count, self.group):
            numbers = range(first, min(first + self.group, self.count))
            batches = (self.batch(order, epoch, number) for number in numbers)
            yield next(batches) if self.group == 1 else batches

    def batch(self, order: Tensor, epoch: int, number: int) -> Batch:
        """This process's part of the batch of that number, the images being in that order."""
        chunk = order[number * self.batch_size : (number + 1) * self.batch_size]
        index = chunk[self.rank :: self.processes]
        x = self.images.index_select(0, index).float().div_(255)
        condition = tuple(values[index] for values in self.conditions)
        return Batch(self.pixels(x, epoch, number), index, len(chunk) / self.processes, condition)


def binarize(images: Tensor, *stream: int | str) -> Tensor:
    """uint8 0 or 255, each pixel on with probability byte/255: one draw that depends on ``stream`` alone."""
    generator = rng.generator("cpu", SPLIT_SEED, "pixels", *stream)
    chunks = [torch.rand(part.shape, generator=generator) * 255 < part for part in images.split(10_000)]
    return torch.cat(chunks).to(torch.uint8) * 255


def take(images: Tensor, indices: Tensor) -> Tensor:
    """The images at the indices in ascending order; no copy where that is all of them."""
    return images if len(indices) == len(images) else images[indices.sort().values]


class ImageData(LightningDataModule):
    """Training, validation and test images of a torchvision-like dataset.

    Args:
        name: the data set's true name, for results.
        dataset: called with root and train, has ``data`` (N, H, W) uint8 and ``targets`` (N,).
        root: folder of the files.
        image_shape: C, H, W.
        batch_size: images of a training batch over all processes.
        val_size: images taken from the training files for validation, the same whatever the seed.
        binarization: ``none`` leaves x = byte/255; ``threshold`` is x > 1/2; ``fixed`` one draw with probability x;
            ``dynamic`` a new draw at every step (validation and test images: the one fixed draw).
        seed: of the order and of dynamic binarization.
        conditional: batches carry the labels.

    Raises:
        ValueError: the files are damaged, or batch_size or val_size does not fit the number of training images.
    """

    def __init__(
        self,
        name: str,
        dataset: Callable[..., Dataset],
        root: str,
        image_shape: Sequence[int],
        batch_size: int,
        val_size: int,
        binarization: str,
        seed: int,
        conditional: bool = False,
    ) -> None:
        super().__init__()
        self.name, self.batch_size, self.binarization, self.seed = name, batch_size, binarization, seed
        self.conditional, self.steps_per_execution = conditional, 1
        train, labels = self.read(dataset, root, image_shape, train=True)
        test, test_labels = self.read(dataset, root, image_shape, train=False)
        if not 0 <= val_size < len(train):
            raise ValueError(f"data.val_size={val_size}: must be 0 to {len(train) - 1} for {name}")
        if not 1 <= batch_size <= len(train) - val_size:
            raise ValueError(f"data.batch_size={batch_size}: must be 1 to {len(train) - val_size} for {name}")
        order = stratified_order(labels) if val_size else torch.arange(len(train))
        parts = {"train": order[val_size:], "val": order[:val_size]}
        self.images = {split: take(train, indices) for split, indices in parts.items()} | {"test": test}
        self.labels = {split: take(labels, indices) for split, indices in parts.items()} | {"test": test_labels}
        for split, images in self.images.items():
            if binarization == "threshold":
                self.images[split] = (images > 127).to(torch.uint8) * 255
            elif binarization == "fixed" or (binarization == "dynamic" and split != "train"):
                self.images[split] = binarize(images, name, split)

    @staticmethod
    def read(dataset: Callable[..., Any], root: str, image_shape: Sequence[int], train: bool) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) uint8 and labels (N,) of one official part."""
        try:
            part = dataset(root=Path(root), train=train)
            images = part.data.reshape(-1, *image_shape)
        except (AssertionError, RuntimeError, ValueError, EOFError) as error:
            raise ValueError(f"data.root={root}: the files there are missing or damaged ({error})") from error
        if len(images) != len(part.targets):
            raise ValueError(f"data.root={root}: {len(images)} images but {len(part.targets)} labels")
        return images, part.targets

    def images_in(self, split: str) -> int:
        """Number of images of a split."""
        return len(self.images[split])

    @property
    def steps(self) -> int:
        """Optimiser steps of an epoch."""
        return batches_in(self.images_in("train"), self.batch_size)

    @property
    def pixels(self) -> int:
        """D = C * H * W."""
        return self.images["test"][0].numel()

    def setup(self, stage: str) -> None:
        """Moves the images to the device that trains on them, once."""
        device = self.trainer.strategy.root_device
        self.images = {split: images.to(device) for split, images in self.images.items()}
        self.labels = {split: labels.to(device) for split, labels in self.labels.items()}

    def conditions(self, split: str) -> tuple[Tensor, ...]:
        """What a conditional model is told of each image: the labels (N,)."""
        return (self.labels[split],) if self.conditional else ()

    def inputs(self, split: str, index: Tensor | slice) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What a model is called with for images of a split: x (B, C, H, W) in [0, 1], and its conditions (B,)."""
        x = self.images[split][index].float() / 255
        return x, tuple(values[index] for values in self.conditions(split))

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """The batch as it is: it was made on the device."""
        return batch

    def shuffled(self, epoch: int) -> Tensor:
        """The order of the training images in an epoch, the same on every rank: a permutation (N,)."""
        return torch.randperm(self.images_in("train"), generator=rng.generator("cpu", self.seed, "order", epoch))

    def drawn(self, x: Tensor, epoch: int, number: int) -> Tensor:
        """Bernoulli(x) pixels of one training batch, (B, C, H, W), from the run's own stream on x's device."""
        stream = ("pixels", self.trainer.global_rank, epoch, number)
        return torch.bernoulli(x, generator=rng.generator(x.device, self.seed, *stream))

    def train_dataloader(self) -> Batches:
        """Shuffled batches; a run that was interrupted within an epoch goes on behind its last batch."""
        loop, group = self.trainer.fit_loop, self.steps_per_execution
        return Batches(
            self.images["train"],
            self.batch_size,
            self.trainer.global_rank,
            self.trainer.world_size,
            self.shuffled,
            self.drawn if self.binarization == "dynamic" else as_they_are,
            lambda: (loop.epoch_progress.current.processed, loop.epoch_loop.batch_progress.current.ready * group),
            self.conditions("train"),
            group,
        )

    def evaluation_batches(self, split: str) -> Batches:
        """The images of a split in their own order."""
        return Batches(
            self.images[split],
            EVALUATION_BATCH_SIZE,
            self.trainer.global_rank,
            self.trainer.world_size,
            lambda _: torch.arange(self.images_in(split)),
            conditions=self.conditions(split),
        )

    def val_dataloader(self) -> Batches:
        """The validation images; not asked for where there are none."""
        return self.evaluation_batches("val")

    def test_dataloader(self) -> Batches:
        """The official test images."""
        return self.evaluation_batches("test")
