"""Images that were read once: one file of bytes for each split, in the cache of the user.

The environment variable VAE_LIGHTNING_CACHE names another folder than ~/.cache/vae_lightning. The
folder can be deleted at any time; the images are then read again.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from tqdm import tqdm

from vae_lightning.data.convert import Shape
from vae_lightning.data.fingerprint import Part
from vae_lightning.data.sources.source import StoredImages
from vae_lightning.storage.files import TEMPORARY, write_json

VERSION = 1  # of the format
CONTENT = "content.json"
READ_AT_ONCE = 1024  # images


class Wanted(NamedTuple):
    """The images of one split: those at ``positions`` (N,) of what is stored."""

    images: StoredImages
    positions: Tensor


class Cached(NamedTuple):
    """The images of one split in the cache."""

    folder: Path
    split: str
    shape: Shape
    fingerprint: Part
    left_out: frozenset[int]  # positions of images that could not be read

    def load(self, in_memory: bool) -> Tensor:
        """The images as uint8 (N, C, H, W): a copy in memory, or the mapped file."""
        path, shape = self.folder / f"{self.split}.images", (self.fingerprint.number, *self.shape)
        if in_memory or not self.fingerprint.number:
            return torch.from_numpy(np.fromfile(path, np.uint8)).reshape(shape)
        # copy on write: nothing can change the file
        return torch.from_numpy(np.memmap(path, np.uint8, mode="c", shape=shape))

    def digests(self) -> np.ndarray:
        """What the function ``digests`` returns for these images."""
        return np.fromfile(self.folder / f"{self.split}.digests", np.uint64)


def cache_folder() -> Path:
    """The folder of everything that is cached."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("VAE_LIGHTNING_CACHE") or Path(base) / "vae_lightning")


def cached(splits: Mapping[str, Wanted]) -> dict[str, Cached]:
    """The images of each split; they are read now if they are not in the cache.

    One process reads while the others wait.
    """
    folder = cache_folder() / key_of(splits)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / CONTENT).is_file():
            temporary = folder.with_name(f"{TEMPORARY}{folder.name}")
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            write(splits, temporary)
            os.replace(temporary, folder)
    content = json.loads((folder / CONTENT).read_text())
    return {
        split: Cached(
            folder,
            split,
            wanted.images.shape,
            Part(content[split]["number"], content[split]["sha256"]),
            frozenset(content[split]["left_out"]),
        )
        for split, wanted in splits.items()
    }


def key_of(splits: Mapping[str, Wanted]) -> str:
    """A name that changes with the files, how they are read, and how they are divided."""
    digest = hashlib.sha256(repr(VERSION).encode())
    for split, wanted in splits.items():
        digest.update(repr((split, wanted.images.key, wanted.images.shape)).encode())
        digest.update(wanted.positions.numpy().data)
    return digest.hexdigest()[:32]


def write(splits: Mapping[str, Wanted], folder: Path) -> None:
    """Reads the images of all splits and writes them, with a progress bar on a terminal."""
    total = sum(len(wanted.positions) for wanted in splits.values())
    bar = tqdm(total=total, desc="reading images", unit="image", disable=not sys.stderr.isatty())
    content: dict[str, object] = {}
    with bar:
        for split, wanted in splits.items():
            content[split] = write_split(wanted, folder, split, bar)
    write_json(folder / CONTENT, content)


def write_split(
    wanted: Wanted, folder: Path, split: str, bar: "tqdm[NoReturn]"
) -> dict[str, object]:
    """Writes the images of a split and returns what is to be known about them."""
    sha256, number, left_out = hashlib.sha256(), 0, list[int]()
    with (
        open(folder / f"{split}.images", "wb") as images,
        open(folder / f"{split}.digests", "wb") as short,
    ):
        for positions in wanted.positions.split(READ_AT_ONCE):
            found = wanted.images.read(positions.tolist())
            good = [image for image in found if image is not None]
            left_out += [
                position
                for position, image in zip(positions.tolist(), found, strict=True)
                if image is None
            ]
            if good:
                pixels = torch.stack(good)
                images.write(pixels.numpy().data)
                sha256.update(pixels.numpy().data)
                short.write(digests(pixels).data)
            number += len(good)
            bar.update(len(positions))
    return {"number": number, "sha256": sha256.hexdigest(), "left_out": left_out}


def digests(images: Tensor) -> np.ndarray:
    """A number for each image (N, C, H, W), (N,), uint64; equal images have the same number."""
    pixels = images.reshape(len(images), -1).contiguous().numpy()
    found = [hashlib.blake2b(row.data, digest_size=8).digest() for row in pixels]
    return np.frombuffer(b"".join(found), np.uint64)
