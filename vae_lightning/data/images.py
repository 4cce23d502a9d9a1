"""The LightningDataModule. It keeps each split as one uint8 tensor, on the device if it fits.

Batches are made by indexing, without worker processes and without a Python call per image.
Shapes: N images, B images of a batch, C H W of an image.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor

from vae_lightning import rng
from vae_lightning.checks.errors import ConfigError
from vae_lightning.checks.ranges import Choice, Integer, Option, Subset
from vae_lightning.data import fingerprint
from vae_lightning.data.augment import CHANGES, augment
from vae_lightning.data.batches import Batch, Batches, keep_pixels, num_batches
from vae_lightning.data.limits import Limits, group_ends, limited
from vae_lightning.data.sources.source import Part
from vae_lightning.data.splits import binarize, block_order
from vae_lightning.networks.conditional import UNCONDITIONAL, Condition

BINARIZATIONS = ("none", "dynamic", "fixed", "threshold")
EVALUATION_BATCH_SIZE = 500  # no result depends on it


class ImageData(LightningDataModule):
    """Training, validation and test images.

    Args:
        name: name of the data set, recorded with the results.
        parts: the images of the splits train, val and test; val may be empty.
        batch_size: images of a training batch, over all processes.
        binarization: ``none`` keeps x = byte/255. ``threshold`` is x > 1/2. ``fixed`` samples each
            pixel once with probability x. ``dynamic`` samples the training pixels anew at every
            step; validation and test images are binarized as with ``fixed``.
        seed: seed of the shuffling, of dynamic binarization and of augmentation.
        conditional: whether batches contain the labels.
        augment: random changes of the training images in training, names of data.augment.CHANGES.
        fingerprints: of the images and labels as they are stored.
        in_memory: whether the images lie in memory. Otherwise they are files that are mapped into
            it; they stay on the CPU, and are shuffled in blocks, so that the disk reads in order.
        class_names: what each label means; empty if the data set does not say so.
        unordered_factors: positions of the factors whose values have no order.

    Raises ConfigError if the options do not fit the images or each other.
    """

    def __init__(
        self,
        name: str,
        parts: Mapping[str, Part],
        batch_size: Annotated[int, Option("images per step, over all processes", Integer(1))],
        binarization: Annotated[
            str,
            Option(
                "how gray pixels become 0 or 1; dynamic: at random at each step",
                Choice(BINARIZATIONS),
            ),
        ],
        seed: int,
        conditional: bool = False,
        augment: Annotated[
            Sequence[str], Option("random changes of the training images", Subset(tuple(CHANGES)))
        ] = (),
        fingerprints: Mapping[str, fingerprint.Part] | None = None,
        in_memory: bool = True,
        class_names: Sequence[str] = (),
        unordered_factors: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.name, self.batch_size, self.seed = name, batch_size, seed
        self.binarization, self.conditional = binarization, conditional
        self.augment, self.in_memory, self.class_names = augment, in_memory, tuple(class_names)
        self.unordered_factors = tuple(unordered_factors)
        self.group_size, self.limits, self.parts = 1, Limits(), fingerprints or {}
        self.check_binarization()
        self.images = {split: part.images for split, part in parts.items()}
        self.labels = {split: part.labels for split, part in parts.items()}
        self.files = {split: part.files for split, part in parts.items()}
        # (N, F), the values that generated each image; empty if the data set does not know them
        self.factors = {s: part.factors for s, part in parts.items() if part.factors is not None}
        for split, images in self.images.items():
            if binarization == "threshold":
                self.images[split] = (images > 127).to(torch.uint8) * 255
            elif binarization == "fixed" or (binarization == "dynamic" and split != "train"):
                self.images[split] = binarize(images, name, split)

    def check_binarization(self) -> None:
        """Raises ConfigError if other options do not allow this binarization."""
        keeps_binary = self.binarization in ("threshold", "fixed")
        if keeps_binary and "rotate" in self.augment:
            raise ConfigError(
                f"data.augment={list(self.augment)}: rotate requires data.binarization=none or"
                " dynamic, because rotated binary images are gray"
            )
        if keeps_binary and not self.in_memory:
            raise ConfigError(
                f"data.binarization={self.binarization}: requires data.in_memory=true, or"
                " data.binarization=dynamic"
            )

    @property
    def sha256(self) -> str:
        """The fingerprint of all images and labels, before binarization."""
        return fingerprint.combined(self.parts)

    def limit(self, limits: Limits) -> None:
        """Uses a part of the batches only; raises ConfigError for one that has no batch."""
        self.limits = limits
        for split in self.images:
            self.batches_in(split)
        limits.check_interval(self.batches_between_validations, self.batches_in("train"))

    def group_batches(self, size: int) -> None:
        """Makes the training data loader yield iterators over this many batches each.

        1: it yields the batches themselves.
        """
        self.group_size = size

    @property
    def group_ends(self) -> list[int]:
        """The batches of an epoch after which groups end."""
        size, interval = self.group_size, self.batches_between_validations
        return group_ends(self.batches_in("train"), size, interval)

    @property
    def calls_between_validations(self) -> int:
        """What Lightning takes for ``batches_between_validations``: it counts groups."""
        interval = self.batches_between_validations
        return interval if self.group_size == 1 else self.group_ends.index(interval) + 1

    def images_in(self, split: str) -> int:
        """Number of images of a split."""
        return len(self.images[split])

    def batches_in(self, split: str) -> int:
        """Number of batches of a split that are used."""
        size = self.batch_size if split == "train" else EVALUATION_BATCH_SIZE
        amount = {"train": self.limits.train, "val": self.limits.val, "test": self.limits.test}
        count = num_batches(self.images_in(split), size)
        return limited(count, amount[split], f"trainer.limit_{split}_batches")

    def used_images(self, split: str) -> int:
        """Number of images of a split that are used, in an epoch if they are training images."""
        size = self.batch_size if split == "train" else EVALUATION_BATCH_SIZE
        return min(self.images_in(split), size * self.batches_in(split))

    @property
    def batches_between_validations(self) -> int:
        """Training batches from one validation to the next."""
        interval = self.limits.val_interval
        if isinstance(interval, int):
            return interval
        return max(1, int(interval * self.batches_in("train")))

    @property
    def steps(self) -> int:
        """Optimizer steps per epoch."""
        return num_batches(self.batches_in("train"), self.limits.accumulated)

    def total_steps(self, epochs: int) -> int:
        """Optimizer steps of a run of so many epochs."""
        steps = epochs * self.steps
        return steps if self.limits.max_steps is None else min(steps, self.limits.max_steps)

    def total_epochs(self, epochs: int) -> int:
        """Epochs in which these steps are taken."""
        return num_batches(self.total_steps(epochs), self.steps)

    @property
    def pixels(self) -> int:
        """Pixels per image, D = C * H * W."""
        return self.images["test"][0].numel()

    def setup(self, stage: str) -> None:
        """Moves the images, if they are in memory, and the labels to the training device."""
        device = self.trainer_in_use().strategy.root_device
        if self.in_memory:
            self.images = {split: images.to(device) for split, images in self.images.items()}
        self.labels = {split: labels.to(device) for split, labels in self.labels.items()}

    def trainer_in_use(self) -> Trainer:
        """The trainer that uses this data module."""
        assert self.trainer is not None
        return self.trainer

    @property
    def device(self) -> torch.device:
        """The device of the batches."""
        return self.labels["train"].device

    def evaluation_images(self, split: str, index: Tensor | slice = slice(None)) -> Tensor:
        """Images of a split as evaluation uses them, uint8: (N, C, H, W).

        With dynamic binarization, training images are binarized as with ``fixed``, like the others.
        """
        images = self.images[split][index]
        if self.binarization == "dynamic" and split == "train":
            return binarize(images, str(self.name), split)
        return images

    def condition(self, split: str) -> Condition:
        """The condition of all images of a split: the labels (N,) of a conditional model."""
        return Condition(self.labels[split]) if self.conditional else UNCONDITIONAL

    def inputs(self, split: str, index: Tensor | slice) -> tuple[Tensor, Condition]:
        """The inputs of a model: images x (B, C, H, W) in [0, 1] of a split, and the condition."""
        condition = self.condition(split).take(index)
        images = self.images[split]
        if isinstance(index, Tensor):
            index = index.to(images.device)
        return images[index].to(self.labels[split].device).float() / 255, condition

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Returns the batch unchanged, because it was created on the device."""
        return batch

    def shuffled(self, epoch: int) -> Tensor:
        """The order of the training images in an epoch, a permutation (N,), equal on all ranks."""
        count, generator = self.images_in("train"), rng.generator("cpu", self.seed, "order", epoch)
        if not self.limits.is_shuffled:
            return torch.arange(count)
        if self.in_memory:
            return torch.randperm(count, generator=generator)
        return block_order(count, self.pixels, generator)

    def change_pixels(self, x: Tensor, epoch: int, number: int) -> Tensor:
        """Augments one training batch (B, C, H, W) and, if it is dynamic, samples its pixels.

        The random streams depend on the seed of the run, the rank, the epoch and the batch.
        """
        place = (self.trainer_in_use().global_rank, epoch, number)
        if self.augment:
            x = augment(x, self.augment, rng.generator(x.device, self.seed, "augment", *place))
        if self.binarization == "dynamic":
            x = torch.bernoulli(x, generator=rng.generator(x.device, self.seed, "pixels", *place))
        return x

    def train_dataloader(self) -> Batches:
        """Shuffled training batches; an interrupted epoch continues after its last batch."""
        trainer, is_grouped = self.trainer_in_use(), self.group_size > 1
        loop, count = trainer.fit_loop, self.batches_in("train")

        def position() -> tuple[int, int]:
            epoch = loop.epoch_progress.current.processed  # pyright: ignore[reportAttributeAccessIssue] - it is a _ProcessedTracker, a subclass of the declared type
            if is_grouped:  # each batch is a step; what Lightning counts are groups
                return epoch, trainer.global_step % count
            return epoch, loop.epoch_loop.batch_progress.current.ready

        return Batches(
            self.images["train"],
            self.batch_size,
            trainer.global_rank,
            trainer.world_size,
            self.shuffled,
            self.change_pixels if self.augment or self.binarization == "dynamic" else keep_pixels,
            position,
            self.condition("train"),
            count,
            self.group_ends if is_grouped else None,
            self.limits.max_steps,
            self.device,
            reads_ahead=not self.in_memory,
        )

    def evaluation_batches(self, split: str) -> Batches:
        """The batches of a split in the stored order, for evaluation."""
        trainer = self.trainer_in_use()
        return Batches(
            self.images[split],
            EVALUATION_BATCH_SIZE,
            trainer.global_rank,
            trainer.world_size,
            lambda _: torch.arange(self.images_in(split)),
            condition=self.condition(split),
            count=self.batches_in(split),
            device=self.device,
            reads_ahead=not self.in_memory,
        )

    def val_dataloader(self) -> Batches:
        """The validation batches; Lightning does not request them if there are none."""
        return self.evaluation_batches("val")

    def test_dataloader(self) -> Batches:
        """The batches of the official test images."""
        return self.evaluation_batches("test")


def image_data(trainer: Trainer) -> ImageData:
    """The data module that a trainer uses."""
    data = getattr(trainer, "datamodule", None)  # Lightning sets it without declaring it
    assert isinstance(data, ImageData)
    return data
