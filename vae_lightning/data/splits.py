"""Splits and binarization that depend only on the data set, never on the seed of the run.

Shapes: N images.
"""

import torch
from torch import Tensor

from vae_lightning import rng

BLOCK_BYTES, WINDOW = 1 << 20, 128
SPLIT_SEED = 20131220  # the same for every run (the date of arXiv 1312.6114)


def stratified_order(labels: Tensor) -> Tensor:
    """A fixed permutation (N,) in which every prefix has nearly the same label proportions.

    The images are sorted by (rank within the label + 1/2) / (number of images with the label). A
    fixed permutation determines the ranks.
    """
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SPLIT_SEED))
    position = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique():
        members = shuffled[labels[shuffled] == label]
        position[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return position.argsort(stable=True)


def binarize(images: Tensor, *stream: int | str) -> Tensor:
    """Sets each pixel to 255 with probability byte/255, otherwise to 0 (uint8).

    The result depends only on the images and on ``stream``.
    """
    generator = rng.generator("cpu", SPLIT_SEED, "pixels", *stream)
    chunks = [
        torch.rand(part.shape, generator=generator) * 255 < part for part in images.split(10_000)
    ]
    return torch.cat(chunks).to(torch.uint8) * 255


def block_order(count: int, image_bytes: int, generator: torch.Generator) -> Tensor:
    """A random permutation (count,) for images in a file, which is read nearly in order.

    Blocks of neighbors, of BLOCK_BYTES each, are put in random order. Then the images within each
    WINDOW blocks are put in random order: a batch mixes images from that many places.
    """
    size = max(1, BLOCK_BYTES // image_bytes)
    blocks = torch.randperm(-(-count // size), generator=generator)
    order = (blocks[:, None] * size + torch.arange(size)).flatten()
    order = order[order < count]
    windows = [
        window[torch.randperm(len(window), generator=generator)]
        for window in order.split(size * WINDOW)
    ]
    return torch.cat(windows)


def random_part(count: int, most: int, stream: str) -> Tensor:
    """Returns the positions of ``most`` of ``count`` images, at random but always the same ones.

    They are all positions, in order, if there are no more.
    """
    if count <= most:
        return torch.arange(count)
    return torch.randperm(count, generator=rng.generator("cpu", 0, stream))[:most]
