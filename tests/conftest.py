"""Shared fixtures: the command line as a subprocess, a tiny IDX data set, real MNIST where it is."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from browser import BROWSERS, Browser, installed
from torch import Tensor

Command = Callable[..., subprocess.CompletedProcess[str]]


def write_idx(path: Path, values: Tensor) -> None:
    """An IDX file of bytes: magic number 0x08 and the number of dimensions, the sizes, the data."""
    header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    path.write_bytes(header + values.to(torch.uint8).numpy().tobytes())


def write_tiny_mnist(root: Path, train: int = 600, test: int = 130) -> None:
    """Ten kinds of blurred bars with noise, in the files and the layout of MNIST."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for prefix, count in (("train", train), ("t10k", test)):
        labels = torch.arange(count) % 10
        rows = torch.arange(28)[None, :, None]
        bars = torch.exp(-0.1 * (rows - 3 - 2.4 * labels[:, None, None]) ** 2).expand(-1, -1, 28)
        noise = torch.rand(count, 28, 28, generator=generator)
        write_idx(raw / f"{prefix}-images-idx3-ubyte", (230 * bars + 20 * noise).round())
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", labels)


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tiny")
    write_tiny_mnist(root)
    return root


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """Real MNIST; where it is not, the test is skipped, or fails if VAE_LIGHTNING_REQUIRE_DATA says that it is."""
    root = Path(os.environ.get("VAE_LIGHTNING_DATA", "data"))
    if not (root / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file():
        if os.environ.get("VAE_LIGHTNING_REQUIRE_DATA"):
            pytest.fail(f"VAE_LIGHTNING_REQUIRE_DATA is set, but {root} has no MNIST")
        pytest.skip(f"real MNIST is not in {root}: set VAE_LIGHTNING_DATA")
    return root.resolve()


@pytest.fixture(scope="session")
def train() -> Command:
    """``train(*overrides, cwd=..., data=...)``: the command as a user runs it, with its output captured."""

    def command(*overrides: str, cwd: Path, data: Path | None = None) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != "VAE_LIGHTNING_DATA"}
        if data is not None:
            environment["VAE_LIGHTNING_DATA"] = str(data)
        arguments = [sys.executable, "-m", "vae_lightning.train", *overrides]
        return subprocess.run(arguments, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)

    return command


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    path = installed()
    if path is None or sys.platform == "win32":
        pytest.skip(f"no browser is installed here: {', '.join(BROWSERS)}")
    found = Browser(path, tmp_path_factory.mktemp("profile"))
    yield found
    found.close()
