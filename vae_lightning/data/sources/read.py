"""Reads a data set: finds its images, divides them into splits, and checks them.

Shapes: N images, C H W of an image.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vae_lightning.checks.errors import ConfigError, counted, show
from vae_lightning.data import fingerprint
from vae_lightning.data.convert import Shape, to_labels, unlabeled
from vae_lightning.data.sources.cache import Cached, Wanted, cached, digests
from vae_lightning.data.sources.source import Part, Pool, Source, StoredImages, empty
from vae_lightning.data.splits import stratified_order

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
DEFAULT_SHARE = 0.1  # of the images of a data set that is not divided
MOST_NAMED = 5  # files that a message names
IN_MEMORY_BYTES = 1 << 30  # larger data sets are mapped into memory, unless the user says otherwise


class Division(NamedTuple):
    """How the images are divided and kept."""

    # numbers of images, or fractions below 1; None: a tenth, unless the data set has such a split
    val_size: float | None
    test_size: float | None
    in_memory: bool | None = None  # None: unless the images take more than IN_MEMORY_BYTES
    classes: int | None = None  # number of labels; None: what is found


class Found(NamedTuple):
    """A data set that was read."""

    parts: dict[str, Part]  # train, val and test
    fingerprints: dict[str, fingerprint.Part]
    shape: Shape
    classes: int
    in_memory: bool
    class_names: tuple[str, ...]
    unordered_factors: tuple[int, ...]


def read(source: Source, name: str, shape: Sequence[int] | None, division: Division) -> Found:
    """Reads the images of a source, and warns of what a user should know.

    Args:
        source: finds the images.
        name: of the data set, for messages.
        shape: C, H, W; None: what is found.
        division: how the images are divided and kept.

    Raises ConfigError if the images are missing, damaged, or cannot be divided.
    """
    pools = dict(source.pools(shape))
    found = common_shape(pools, name)
    labels, class_names = joint_labels(pools, name, division.classes)
    positions = divide(pools, labels, name, division)
    images = sum(len(index) for _, index in positions.values())
    in_memory = division.in_memory
    if in_memory is None:
        in_memory = images * math.prod(found) <= IN_MEMORY_BYTES
    stored = {
        split: Wanted(images, index)
        for split, (owner, index) in positions.items()
        if isinstance(images := pools[owner].images, StoredImages)
    }
    files = cached(stored) if stored else {}
    for split, file in files.items():
        report_left_out(stored[split], file, name)
    parts = {
        split: make_part(pools[owner], labels[owner], index, files.get(split), in_memory)
        for split, (owner, index) in positions.items()
    }
    if source.may_overlap:
        warn_of_overlap(parts, files)
    return Found(
        {split: parts.get(split, empty(found)) for split in SPLITS},
        fingerprints(pools, labels, parts, files),
        found,
        division.classes or 1 + max(int(each.max()) for each in labels.values()),
        in_memory,
        class_names,
        pools["train"].unordered_factors,
    )


def common_shape(pools: Mapping[str, Pool], name: str) -> Shape:
    """The shape of all images; raises ConfigError if there are none, or of different shapes."""
    first = pools["train"].shape
    for split, pool in pools.items():
        if not pool.number:
            raise ConfigError(f"data={name}: must have at least one image in {split}")
        if pool.shape != first:
            raise ConfigError(
                f"data={name}: must have images of one shape, but those of train are {list(first)}"
                f" and those of {split} {list(pool.shape)}"
            )
    return first


def joint_labels(
    pools: Mapping[str, Pool], name: str, classes: int | None
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The labels of each pool, (N,) each, and what they mean, if that is known.

    The same text is the same number in all pools.
    """
    counts = [pool.number for pool in pools.values()]
    for (split, pool), count in zip(pools.items(), counts, strict=True):
        if pool.labels is not None and len(pool.labels) != count:
            raise ConfigError(
                f"data={name}: must have one label per image, but {split} has {count} images and"
                f" {len(pool.labels)} labels"
            )
    given = [pool.labels for pool in pools.values() if pool.labels is not None]
    if len(given) < len(pools):
        remark = "only some splits have labels, so that none are used" if given else ""
        labels = unlabeled(sum(counts), remark)
    else:
        labels = to_labels(np.concatenate([np.asarray(each) for each in given]), sum(counts), name)
    if labels.remark:
        log.warning("data=%s: %s", name, labels.remark)
    if labels.names:
        log.info("classes: %s", ", ".join(f"{n} {each}" for n, each in enumerate(labels.names)))
    largest = int(labels.values.max())
    if classes is not None and largest >= classes:
        raise ConfigError(
            f"data.classes={classes}: must be greater than the largest label, which is {largest}"
        )
    split_labels = dict(zip(pools, labels.values.split(counts), strict=True))
    return split_labels, labels.names or pools["train"].class_names


def divide(
    pools: Mapping[str, Pool], labels: Mapping[str, Tensor], name: str, division: Division
) -> dict[str, tuple[str, Tensor]]:
    """The pool of each split and its positions there, in ascending order.

    What has no pool of its own is taken from the training images, with nearly the same proportions
    of the labels, and always the same images.
    """
    total = len(labels["train"])
    for split, size in (("val", division.val_size), ("test", division.test_size)):
        if split in pools and size is not None:
            raise ConfigError(
                f"data.{split}_size={size}: must be null, because {name} has {split} images of its"
                " own"
            )
    needed = 1 + sum(split not in pools for split in ("val", "test"))
    if total < needed and division.val_size is None and division.test_size is None:
        raise ConfigError(f"{name}: must hold at least {needed} images, but holds {total}")
    test = 0 if "test" in pools else count_of(division.test_size, total)
    val = 0 if "val" in pools else count_of(division.val_size, total)
    if "test" not in pools and not 1 <= test < total:
        raise ConfigError(
            f"data.test_size={show(division.test_size)}: must leave at least one image for the"
            f" training and one for the test, because {name} has {counted(total, 'image')} and no"
            " test set"
        )
    if not 0 <= val < total - test:
        raise ConfigError(
            f"data.val_size={show(division.val_size)}: must be 0 to {total - test - 1} for {name}"
        )
    order = stratified_order(labels["train"]) if test or val else torch.arange(total)
    taken = {"train": order[test + val :]}
    if val:
        taken["val"] = order[test : test + val]
    if test:
        taken["test"] = order[:test]
    found = {split: ("train", index.sort().values) for split, index in taken.items()}
    for split in ("val", "test"):
        if split in pools:
            found[split] = (split, torch.arange(len(labels[split])))
    return found


def count_of(size: float | None, total: int) -> int:
    """The number of images that a number or a fraction means; of a fraction at least one."""
    size = DEFAULT_SHARE if size is None else size
    return max(1, round(size * total)) if 0 < size < 1 else int(size)


def make_part(
    pool: Pool, labels: Tensor, index: Tensor, file: Cached | None, in_memory: bool
) -> Part:
    """The images of a pool at these positions, from memory or from the cache."""
    if isinstance(pool.images, Tensor):
        return Part(pool.images, labels, pool.factors, pool.files).take(index)
    assert file is not None
    readable = torch.tensor([each for each in index.tolist() if each not in file.left_out])
    known = Part(labels, labels, pool.factors, pool.files).take(readable)
    return known._replace(images=file.load(in_memory))


def report_left_out(wanted: Wanted, file: Cached, name: str) -> None:
    """Warns of images that could not be read; raises ConfigError if none could be."""
    if not file.left_out:
        return
    names = [wanted.images.names[position] for position in sorted(file.left_out)]
    named = ", ".join(names[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")
    if not file.fingerprint.number:
        raise ConfigError(f"data={name}: must have {file.split} images that can be read ({named})")
    log.warning(
        "%d of the %d %s images cannot be read and are left out: %s",
        len(names),
        len(wanted.positions),
        file.split,
        named,
    )


def fingerprints(
    pools: Mapping[str, Pool],
    labels: Mapping[str, Tensor],
    parts: Mapping[str, Part],
    files: Mapping[str, Cached],
) -> dict[str, fingerprint.Part]:
    """The fingerprints of all images and labels, of pools in memory and of cached splits."""
    found: dict[str, fingerprint.Part] = {}
    for split, pool in pools.items():
        if isinstance(pool.images, Tensor):
            images, of_labels = fingerprint.FILES[split]
            found[images], found[of_labels] = map(fingerprint.of, (pool.images, labels[split]))
    for split, file in files.items():
        images, of_labels = fingerprint.FILES[split]
        found[images], found[of_labels] = file.fingerprint, fingerprint.of(parts[split].labels)
    return found


def warn_of_overlap(parts: Mapping[str, Part], files: Mapping[str, Cached]) -> None:
    """Warns if images of the validation or test set are training images too."""
    known = {
        split: files[split].digests() if split in files else digests(part.images)
        for split, part in parts.items()
    }
    for split in ("val", "test"):
        shared = int(np.isin(known[split], known["train"]).sum()) if split in known else 0
        if shared:
            log.warning(
                "the training images contain %d of the %d %s images: the %s results are better"
                " than those of new images",
                shared,
                len(known[split]),
                split,
                split,
            )
