"""Shared fixtures: the command line as a subprocess, a tiny IDX data set, real MNIST, a browser."""

import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch

from shapes import CHECKED, checked_classes

# within the tests, every call checks the shapes in its signature
with jaxtyping.install_import_hook(
    [f"vae_lightning.{name}" for name in CHECKED], "shapes.check_shapes"
):
    from benchmarks.fork_server import Done, ForkServer
    from browser import BROWSERS, Browser, installed
    from helpers import Command, write_tiny_mnist


def pytest_configure() -> None:
    """Gives each worker of pytest-xdist, and the processes that it starts, one thread."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips the tests that start clusters, unless they are asked for."""
    if "cluster" not in config.option.markexpr:
        reason = pytest.mark.skip(reason="starts a cluster: pytest -m cluster")
        for item in items:
            if item.get_closest_marker("cluster"):
                item.add_marker(reason)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The classifier of image quality is cached in a folder of this session, not in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def unchecked_shapes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No call checks shapes, for tests that trace functions."""
    for cls in checked_classes():
        for name, member in list(vars(cls).items()):
            if isinstance(member, property) and member.fget:
                monkeypatch.setattr(cls, name, property(inspect.unwrap(member.fget)))
            elif inspect.isfunction(member):
                monkeypatch.setattr(cls, name, inspect.unwrap(member))
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tiny")
    write_tiny_mnist(root)
    return root


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """The root of real MNIST.

    Without its files the test is skipped, or fails if VAE_LIGHTNING_REQUIRE_DATA is set.
    """
    root = Path(os.environ.get("VAE_LIGHTNING_DATA", "data"))
    if not (root / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file():
        if os.environ.get("VAE_LIGHTNING_REQUIRE_DATA"):
            pytest.fail(f"VAE_LIGHTNING_REQUIRE_DATA is set, but {root} has no MNIST")
        pytest.skip(f"real MNIST is not in {root}: set VAE_LIGHTNING_DATA")
    return root.resolve()


@pytest.fixture(scope="session")
def server() -> Iterator[ForkServer]:
    """Runs commands in processes that need not import PyTorch again."""
    with ForkServer() as server:
        yield server


@pytest.fixture(scope="session")
def train(server: ForkServer) -> Command:
    """``train(*overrides, cwd=..., data=...)`` runs the command in a process.

    With ``anew`` Python is started anew: Lightning starts the further processes of DDP in the way
    in which the first one was started, and PyTorch reads some variables only when it is imported.
    """

    def command(*overrides: str, cwd: Path, data: Path | None = None, anew: bool = False) -> Done:
        variables = {"VAE_LIGHTNING_DATA": None if data is None else str(data)}
        if not anew:
            return server.run("train", *overrides, cwd=cwd, variables=variables)
        environment = {name: value for name, value in os.environ.items() if name not in variables}
        environment |= {name: value for name, value in variables.items() if value is not None}
        done = subprocess.run(
            [sys.executable, "-m", "vae_lightning.train", *overrides],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return command


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    path = installed()
    if path is None or sys.platform == "win32":
        pytest.skip(f"no browser is installed here: {', '.join(BROWSERS)}")
    found = Browser(path, tmp_path_factory.mktemp("profile"))
    yield found
    found.close()
