"""The LightningDataModule. It keeps each split as one uint8 tensor on the device.

Batches are made by indexing, without worker processes and without a Python call per image.
Shapes: N images, B images of a batch, C H W of an image.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import Dataset

from vae_lightning import rng
from vae_lightning.checks.errors import ConfigError
from vae_lightning.checks.ranges import Choice, Integer, Option
from vae_lightning.data import fingerprint
from vae_lightning.data.batches import Batch, Batches, keep_pixels, num_batches
from vae_lightning.data.limits import Limits, group_ends, limited
from vae_lightning.data.splits import binarize, stratified_order, take
from vae_lightning.networks.conditional import UNCONDITIONAL, Condition

BINARIZATIONS = ("none", "dynamic", "fixed", "threshold")
EVALUATION_BATCH_SIZE = 500  # no result depends on it


class ImageData(LightningDataModule):
    """Training, validation and test images of a torchvision-style data set.

    Args:
        name: name of the data set, recorded with the results.
        dataset: a callable that takes root and train and returns an object with ``data`` (N, H, W),
            uint8, ``targets`` (N,), and possibly ``factors`` (N, F), integers from 0 on.
        root: folder of the data files.
        image_shape: C, H, W.
        batch_size: images of a training batch, over all processes.
        val_size: number of training images that are held out for validation. The choice does not
            depend on the seed.
        binarization: ``none`` keeps x = byte/255. ``threshold`` is x > 1/2. ``fixed`` samples each
            pixel once with probability x. ``dynamic`` samples the training pixels anew at every
            step; validation and test images are binarized as with ``fixed``.
        seed: seed of the shuffling and of dynamic binarization.
        conditional: whether batches contain the labels.

    Raises:
        ConfigError: if the files are missing or damaged, or if batch_size or val_size does not fit
            the number of training images.
    """

    def __init__(
        self,
        name: str,
        dataset: Callable[..., Dataset],
        root: str,
        image_shape: Sequence[int],
        batch_size: Annotated[int, Option("images per step, over all processes", Integer(1))],
        val_size: Annotated[
            int, Option("training images used for validation; 0 trains on all", Integer(0))
        ],
        binarization: Annotated[
            str,
            Option(
                "how gray pixels become 0 or 1; dynamic: at random at each step",
                Choice(BINARIZATIONS),
            ),
        ],
        seed: int,
        conditional: bool = False,
    ) -> None:
        super().__init__()
        self.name, self.batch_size, self.seed = name, batch_size, seed
        self.binarization, self.conditional = binarization, conditional
        self.group_size, self.limits = 1, Limits()
        train, labels, factors = self.read(dataset, root, image_shape, train=True)
        test, test_labels, test_factors = self.read(dataset, root, image_shape, train=False)
        self.parts = fingerprint.of_files(train, labels, test, test_labels)
        if not 0 <= val_size < len(train):
            raise ConfigError(f"data.val_size={val_size}: must be 0 to {len(train) - 1} for {name}")
        if not 1 <= batch_size <= len(train) - val_size:
            raise ConfigError(
                f"data.batch_size={batch_size}: must be 1 to {len(train) - val_size} for {name}"
            )
        order = stratified_order(labels) if val_size else torch.arange(len(train))
        parts = {"train": order[val_size:], "val": order[:val_size]}
        self.images = {split: take(train, index) for split, index in parts.items()}
        self.labels = {split: take(labels, index) for split, index in parts.items()}
        self.images["test"], self.labels["test"] = test, test_labels
        # (N, F), the values that generated each image; empty if the data set does not know them
        self.factors: dict[str, Tensor] = {}
        if factors is not None and test_factors is not None:
            self.factors = {split: take(factors, index) for split, index in parts.items()}
            self.factors["test"] = test_factors
        for split, images in self.images.items():
            if binarization == "threshold":
                self.images[split] = (images > 127).to(torch.uint8) * 255
            elif binarization == "fixed" or (binarization == "dynamic" and split != "train"):
                self.images[split] = binarize(images, name, split)

    @staticmethod
    def read(
        dataset: Callable[..., Any], root: str, image_shape: Sequence[int], train: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Images (N, C, H, W), uint8, labels (N,), and factors (N, F) if the data set has them."""
        try:
            part = dataset(root=Path(root), train=train)
        except (AssertionError, RuntimeError, ConfigError, EOFError) as error:
            raise ConfigError(
                f"data.root={root}: must hold image files; they are missing or damaged ({error})"
            ) from error
        found = part.data.shape
        if found[1:].numel() != math.prod(image_shape):
            raise ConfigError(
                f"data.image_shape={list(image_shape)}: must have as many pixels as the images,"
                f" which are {' x '.join(map(str, found[1:]))}"
            )
        images = part.data.reshape(-1, *image_shape)
        if len(images) != len(part.targets):
            raise ConfigError(
                f"data.root={root}: must hold one label per image, but has {len(images)} images and"
                f" {len(part.targets)} labels"
            )
        return images, part.targets, getattr(part, "factors", None)

    @property
    def sha256(self) -> str:
        """The fingerprint of all images and labels, before binarization."""
        return fingerprint.combined(self.parts)

    def limit(self, limits: Limits) -> None:
        """Uses a part of the batches only; raises ConfigError for one that has no batch."""
        self.limits = limits
        for split in self.images:
            self.batches_in(split)
        interval = self.batches_between_validations
        if interval > self.batches_in("train"):
            raise ConfigError(
                f"trainer.val_check_interval={interval}: must be at most"
                f" {self.batches_in('train')}, the training batches of an epoch"
            )
        if interval < self.batches_in("train") and interval % limits.accumulated:
            raise ConfigError(
                f"trainer.val_check_interval={limits.val_interval}: must be a multiple of"
                f" trainer.accumulate_grad_batches={limits.accumulated}, and is {interval} batches"
            )

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

    @property
    def pixels(self) -> int:
        """Pixels per image, D = C * H * W."""
        return self.images["test"][0].numel()

    def setup(self, stage: str) -> None:
        """Moves the images and labels to the training device."""
        device = self.trainer_in_use().strategy.root_device
        self.images = {split: images.to(device) for split, images in self.images.items()}
        self.labels = {split: labels.to(device) for split, labels in self.labels.items()}

    def trainer_in_use(self) -> Trainer:
        """The trainer that uses this data module."""
        assert self.trainer is not None
        return self.trainer

    def evaluation_images(self, split: str) -> Tensor:
        """The images of a split as evaluation uses them, uint8: (N, C, H, W).

        With dynamic binarization, the training images are binarized as with ``fixed``, like the
        validation and test images.
        """
        if self.binarization == "dynamic" and split == "train":
            return binarize(self.images[split], str(self.name), split)
        return self.images[split]

    def condition(self, split: str) -> Condition:
        """The condition of all images of a split: the labels (N,) of a conditional model."""
        return Condition(self.labels[split]) if self.conditional else UNCONDITIONAL

    def inputs(self, split: str, index: Tensor | slice) -> tuple[Tensor, Condition]:
        """The inputs of a model: images x (B, C, H, W) in [0, 1] of a split, and the condition."""
        return self.images[split][index].float() / 255, self.condition(split).take(index)

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Returns the batch unchanged, because it was created on the device."""
        return batch

    def shuffled(self, epoch: int) -> Tensor:
        """The order of the training images in an epoch, a permutation (N,), equal on all ranks."""
        if not self.limits.is_shuffled:
            return torch.arange(self.images_in("train"))
        return torch.randperm(
            self.images_in("train"), generator=rng.generator("cpu", self.seed, "order", epoch)
        )

    def sample_pixels(self, x: Tensor, epoch: int, number: int) -> Tensor:
        """Samples the pixels of one training batch from Bernoulli(x), (B, C, H, W).

        The random stream depends on the seed of the run, the rank, the epoch and the batch.
        """
        rank = self.trainer.global_rank  # pyright: ignore[reportOptionalMemberAccess] - Lightning sets the trainer before it trains
        stream = ("pixels", rank, epoch, number)
        return torch.bernoulli(x, generator=rng.generator(x.device, self.seed, *stream))

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
            self.sample_pixels if self.binarization == "dynamic" else keep_pixels,
            position,
            self.condition("train"),
            count,
            self.group_ends if is_grouped else None,
            self.limits.max_steps,
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
