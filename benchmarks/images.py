"""Images to measure with where MNIST is not there or not large enough: smooth blobs in the files of MNIST."""

from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

BLOCK = 10_000  # different images; larger sets repeat them


def write_idx(path: Path, shape: tuple[int, ...], block: numpy.ndarray) -> None:
    """An IDX file of bytes of that shape, the block repeated; no more than the block is held in memory."""
    with path.open("wb") as file:
        file.write(bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape))
        left = shape[0]
        while left:
            part = block[: min(left, len(block))]
            file.write(part.tobytes())
            left -= len(part)


def write(root: Path, train: int, test: int = 100) -> Path:
    """A folder with that many training and test images, 28 by 28, about as dark and smooth as digits."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    noise = torch.randn(min(train, BLOCK), 1, 7, 7, generator=torch.Generator().manual_seed(0))
    blobs = F.interpolate(noise, scale_factor=4, mode="bilinear")[:, 0]
    pixels = ((blobs - 0.5).clamp(0, 1) * 255).to(torch.uint8).numpy()
    labels = (numpy.arange(len(pixels)) % 10).astype(numpy.uint8)
    for prefix, count in (("train", train), ("t10k", test)):
        write_idx(raw / f"{prefix}-images-idx3-ubyte", (count, 28, 28), pixels)
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", (count,), labels)
    return root


class Mapped(Dataset):
    """Such a folder, its files mapped into memory: what is used is read from the disk when it is, however large."""

    def __init__(self, root: Path, train: bool) -> None:
        raw, prefix = root / "MNIST" / "raw", "train" if train else "t10k"
        self.targets = mapped(raw / f"{prefix}-labels-idx1-ubyte", 8)
        self.data = mapped(raw / f"{prefix}-images-idx3-ubyte", 16).view(-1, 28, 28)


def mapped(path: Path, header: int) -> torch.Tensor:
    """The bytes of a file after its header."""
    return torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)[header:]
