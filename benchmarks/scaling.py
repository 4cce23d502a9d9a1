"""Measures how our seconds per epoch grow with one size of the default workload at a time."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import images
from benchmarks.measure import timed
from benchmarks.workload import Contender, Workload, ours

IMAGES = 20_000
# at every size; with trainer.compile=auto, a run on ten million images would be compiled
PLAIN = "trainer.compile=false"
SIZES: dict[str, Sequence[int]] = {
    "batch_size": (32, 64, 128, 256, 512, 1024),
    "latent_dim": (2, 8, 32, 128, 512),
    "width": (100, 200, 400, 800, 1600),
    "samples": (2, 5, 10, 20, 50),
}
NUMBERS = (10_000, 100_000, 1_000_000, 10_000_000)
PROCESSES = (1, 2)


def growth(names: Sequence[str], quick: bool) -> Mapping[str, Mapping[float, float]]:
    """Returns the seconds per epoch for each quantity and size."""
    found: dict[str, dict[float, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            found[name] = {}
            for size in sizes(name, quick):
                root = Path(folder) / f"{name}{size}"
                images.write(root, size if name == "images" else IMAGES)
                found[name][size] = timed(*case(name, size, root, quick)).epoch
                print(f"{name} {size}: {found[name][size]:.3f} s/epoch", flush=True)
                shutil.rmtree(root)  # ten million images take 8 GB
    return found


def sizes(name: str, quick: bool) -> Sequence[int]:
    """Returns all sizes of a quantity or, if quick, the first two."""
    values = {**SIZES, "images": NUMBERS, "processes": PROCESSES}[name]
    return values[:2] if quick else values


def case(name: str, size: int, root: Path, quick: bool) -> tuple[Contender, Workload]:
    """Returns the command and the workload of one measurement."""
    large = name == "images" and size > 1_000_000
    workload = Workload(root, epochs=1 if large else 2 if quick else 3)
    if name == "processes":
        accelerator = "ddp_cpu" if size > 1 else "cpu"
        choices = (f"accelerator={accelerator}", f"trainer.devices={size}")
        return ours("", PLAIN, *choices), workload
    if name == "images":
        return ours("", PLAIN, "data.dataset._target_=benchmarks.images.Mapped"), workload
    return ours("", PLAIN), replace(workload, **{name: size})
