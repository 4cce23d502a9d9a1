"""Where images come from: local files, a download that cannot hang or leave half a file, or scikit-learn's digits."""

import gzip
import hashlib
import logging
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urljoin

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor
from torch.utils.data import Dataset

log = logging.getLogger(__name__)

TIMEOUT_S = 10  # for each connection and each read of a download
SPLIT_SEED = 20131220  # fixes every split; not the run's seed (the day of arXiv 1312.6114)


def stratified_order(labels: Tensor) -> Tensor:
    """A fixed shuffle of the images in which every prefix holds the labels in nearly the same proportions, (N,).

    Each image gets the position (rank within its label + 1/2) / (count of its label), ranks from a fixed permutation.
    """
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SPLIT_SEED))
    position = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique():
        members = shuffled[labels[shuffled] == label]
        position[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return position.argsort(stable=True)


class Digits(Dataset):
    """scikit-learn's 1,797 bundled handwritten digits (real scans, 8x8, 17 grey levels), resized to 28x28.

    Alpaydin & Kaynak 1998, https://archive.ics.uci.edu/dataset/80. A fixed stratified tenth is the test set. The
    interface is torchvision's: ``data`` (N, 28, 28) uint8 and ``targets`` (N,); ``root`` is not needed.
    """

    def __init__(self, root: str | Path, train: bool = True) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        labels = torch.from_numpy(digits.target.astype(np.int64))
        images = torch.from_numpy(digits.images.astype(np.float32))[:, None] * (255 / 16)
        images = F.interpolate(images, size=(28, 28), mode="bilinear").round().to(torch.uint8)[:, 0]
        order = stratified_order(labels)
        test_size = len(labels) // 10
        chosen = (order[test_size:] if train else order[:test_size]).sort().values
        self.data, self.targets = images[chosen], labels[chosen]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.data[index], self.targets[index]


def ensure_files(dataset: type, root: Path, mirrors: Sequence[str] = ()) -> None:
    """Downloads the files of a torchvision MNIST-like class into root/NAME/raw unless they are there.

    The class's own mirrors are tried first, then the given ones. One process downloads while others wait at the lock;
    each file appears under its name only when it is whole and its checksum is right. Raises OSError when no mirror
    gives a file or the folder cannot be written.
    """
    raw = root / dataset.__name__ / "raw"
    if missing_files(dataset, raw):
        raw.mkdir(parents=True, exist_ok=True)
        with FileLock(raw / ".lock"):
            for name, md5 in missing_files(dataset, raw):
                content = gzip.decompress(fetch([*dataset.mirrors, *mirrors], name, md5))
                with tempfile.NamedTemporaryFile(dir=raw, delete=False) as file:
                    file.write(content)
                os.chmod(file.name, 0o644)
                os.replace(file.name, raw / Path(name).stem)


def missing_files(dataset: type, raw: Path) -> list[tuple[str, str]]:
    """(archive, md5) of the files that are not in ``raw``, after the table that torchvision's class keeps."""
    return [(name, md5) for name, md5 in dataset.resources if not (raw / Path(name).stem).is_file()]


def fetch(mirrors: Sequence[str], name: str, md5: str) -> bytes:
    """The bytes of a file from the first mirror that gives them with the right checksum; OSError if none does."""
    failures = []
    for mirror in mirrors:
        url = urljoin(mirror, name)
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
                content = response.read()
        except (OSError, urllib.error.URLError) as error:
            failures.append(f"{url}: {error}")
            continue
        if hashlib.md5(content, usedforsecurity=False).hexdigest() == md5:
            log.info("downloaded %s", url)
            return content
        failures.append(f"{url}: wrong checksum")
    raise OSError("; ".join(failures))
