"""Artificial images in the file format of MNIST, for machines without MNIST and for larger sets.

They show smooth blobs.
"""

from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

BLOCK = 10_000  # number of different images; larger sets repeat them


def write_idx(path: Path, shape: tuple[int, ...], block: numpy.ndarray) -> None:
    """Writes an IDX file of bytes of this shape by repeating the block.

    Only the block is held in memory.
    """
    with path.open("wb") as file:
        file.write(
            bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
        )
        left = shape[0]
        while left:
            part = block[: min(left, len(block))]
            file.write(part.tobytes())
            left -= len(part)


def write(root: Path, train: int, test: int = 100) -> Path:
    """Creates a folder with training and test images, 28x28, and returns it.

    The images are about as dark and as smooth as the digits of MNIST.
    """
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
    """The images of such a folder, mapped into memory, so that only the used parts are read."""

    def __init__(self, root: Path, train: bool) -> None:
        raw, prefix = root / "MNIST" / "raw", "train" if train else "t10k"
        self.targets = mapped(raw / f"{prefix}-labels-idx1-ubyte", 8)
        self.data = mapped(raw / f"{prefix}-images-idx3-ubyte", 16).view(-1, 28, 28)


def mapped(path: Path, header: int) -> torch.Tensor:
    """Returns the bytes of a file after its header."""
    values = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
    return values[header:]
