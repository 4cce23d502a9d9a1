"""The handwritten digits that scikit-learn includes; they require no download."""

import functools
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from vae_lightning.data.splits import stratified_order


@functools.cache
def all_digits() -> tuple[Tensor, Tensor]:
    """All images (N, 28, 28), uint8, and labels (N,); they are read once for both splits."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    assert not isinstance(digits, tuple)  # it is one only if return_X_y is true
    labels = torch.from_numpy(digits.target.astype(np.int64))
    images = torch.from_numpy(digits.images.astype(np.float32))[:, None] * (255 / 16)
    images = F.interpolate(images, size=(28, 28), mode="bilinear").round().to(torch.uint8)[:, 0]
    return images, labels


class Digits(Dataset):
    """The 1,797 handwritten digits of scikit-learn (scans, 8x8, 17 gray levels), resized to 28x28.

    A fixed stratified tenth is the test set. The interface is that of torchvision: ``data``
    (N, 28, 28), uint8, and ``targets`` (N,). ``root`` is not used.
    Alpaydin & Kaynak 1998, https://archive.ics.uci.edu/dataset/80.
    """

    def __init__(self, root: str | Path, train: bool = True) -> None:
        images, labels = all_digits()
        order = stratified_order(labels)
        test_size = len(labels) // 10
        chosen = (order[test_size:] if train else order[:test_size]).sort().values
        self.data, self.targets = images[chosen], labels[chosen]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.data[index], self.targets[index]
