"""What differs between a run and its repetition."""

import math
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import torch

from vae_lightning.runs.stored import read_optional_json
from vae_lightning.storage.files import read_csv
from vae_lightning.storage.run_folder import BEST, CLOCK_COLUMNS, CLOCK_KEYS, ENVIRONMENT, LAST
from vae_lightning.training.checkpoint import read_checkpoint

# what metrics.json says about the machine and the code, which ENVIRONMENT says too
ENVIRONMENT_KEYS = ("versions", "revision", "device", "threads")


def differences(run: Path, other: Path) -> list[str]:
    """One line for each kind of number that differs; none if all are bit-identical."""
    return [
        *metrics_differences(run, other),
        *table_differences(run, other),
        *weight_differences(run, other),
    ]


def environment_differences(run: Path, other: Path) -> list[str]:
    """One line for each part of the environment that differs; it may explain other numbers."""
    before, after = (read_optional_json(each / ENVIRONMENT, "run") for each in (run, other))
    metrics = [read_optional_json(each / "metrics.json", "run") for each in (run, other)]
    for name in ("device", "threads"):
        before[name], after[name] = (each.get(name) for each in metrics)
    return [
        f"{name}: {before.get(name)} then, {after.get(name)} now"
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    ]


def metrics_differences(run: Path, other: Path) -> Iterator[str]:
    """Compares metrics.json."""
    before, after = (read_optional_json(each / "metrics.json", "run") for each in (run, other))
    for name in dict.fromkeys([*before, *after]):
        if name not in CLOCK_KEYS + ENVIRONMENT_KEYS and before.get(name) != after.get(name):
            yield f"metrics.json: {name} was {before.get(name)}, is {after.get(name)}"


def table_differences(run: Path, other: Path) -> Iterator[str]:
    """Compares metrics.csv; names the first epoch in which a column differs."""
    tables = [read_csv(each / "metrics.csv") for each in (run, other)]
    found: set[str] = set()
    for epoch, (before, after) in enumerate(zip_longest(*tables, fillvalue={}), 1):
        for name in dict.fromkeys([*before, *after]):
            if name in found or name in CLOCK_COLUMNS or before.get(name) == after.get(name):
                continue
            found.add(name)
            yield (
                f"metrics.csv: {name} was {before.get(name)}, is {after.get(name)}"
                f" from epoch {epoch} on"
            )


def weight_differences(run: Path, other: Path) -> Iterator[str]:
    """Compares the weights of both checkpoints."""
    for path in (BEST, LAST):
        before, after = (
            read_checkpoint(each / path, f"run={each}")["state_dict"] for each in (run, other)
        )
        if before.keys() != after.keys():
            yield f"{path.name}: has other tensors"
            continue
        unequal = [name for name in before if not torch.equal(before[name], after[name])]
        if unequal:
            largest = max(
                float((before[name].double() - after[name].double()).abs().max())
                if before[name].shape == after[name].shape
                else math.inf
                for name in unequal
            )
            yield (
                f"{path.name}: {len(unequal)} of {len(before)} tensors differ,"
                f" by at most {largest:.3g}"
            )
