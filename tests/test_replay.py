"""A run is repeated, and what differs is named."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from benchmarks.fork_server import Done, ForkServer
from helpers import Command, train_run
from vae_lightning.checks.errors import ConfigError
from vae_lightning.training import memory, provenance

pytestmark = pytest.mark.slow

SIZES = ("model.latent_dim=2", "model.hidden_dims=[8]", "data.val_size=50", "trainer.max_epochs=2")


@pytest.fixture(scope="module")
def finished(train: Command, tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replay")
    return train_run(train, folder, tiny_root, *SIZES, "seed=7", name="a run")


@pytest.fixture
def replay(server: ForkServer, finished: Path, tmp_path: Path) -> tuple[Path, Command]:
    run = shutil.copytree(finished, tmp_path / "run")

    def command(*words: str) -> Done:
        return server.run("replay", "run=run", *words, cwd=tmp_path)

    return run, command


def test_a_run_holds_what_its_numbers_depend_on(finished: Path) -> None:
    stored = json.loads((finished / "environment.json").read_text())
    assert f"torch {torch.__version__.partition('+')[0]}" in stored["versions"]
    assert stored["revision"] == provenance.revision()
    config = (finished / ".hydra" / "config.yaml").read_text()
    assert "seed: 7" in config
    assert "sha256: null" not in config
    difference = provenance.uncommitted()
    assert (finished / "uncommitted.patch").is_file() == (difference is not None)


def test_a_repeated_run_has_the_same_numbers(replay: tuple[Path, Command]) -> None:
    run, command = replay
    done = command()
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{run}-replay: every number is the same\n"
    assert command("out=again").returncode == 0
    assert (run.parent / "again" / "metrics.json").is_file()


def test_what_differs_is_named(replay: tuple[Path, Command]) -> None:
    run, command = replay
    table = (run / "metrics.csv").read_text().splitlines()
    names, last = table[0].split(","), table[2].split(",")
    last[names.index("val/kl")] = "0.125"
    (run / "metrics.csv").write_text("\n".join([*table[:2], ",".join(last)]) + "\n")
    environment = json.loads((run / "environment.json").read_text())
    environment["versions"] = "torch \x1b[2J0.1"
    (run / "environment.json").write_text(json.dumps(environment))
    weights = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    next(iter(weights["state_dict"].values())).view(-1)[0] += 0.5
    torch.save(weights, run / "checkpoints" / "last.ckpt")
    done = command()
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0].startswith("versions: torch \\x1b[2J0.1 then, python")
    assert lines[1].startswith("metrics.csv: val/kl was 0.125, is ")
    assert lines[1].endswith(" from epoch 2 on")
    assert lines[-2].startswith("last.ckpt: 1 of ")
    assert lines[-2].endswith(" differ, by at most 0.5")
    assert lines[-1].endswith(": differs in 2 numbers")


def test_only_a_finished_run_is_repeated(replay: tuple[Path, Command]) -> None:
    run, command = replay
    (run / "status.json").write_text('{"state": "interrupted"}')
    done = command()
    assert done.returncode == 2
    assert done.stderr == "error: run=run: must be finished, is interrupted\n"


def test_a_model_that_does_not_fit_into_memory_is_refused_before_it_takes_any() -> None:
    with memory.MemoryLimit(4 * (30 * 20 + 20)):
        torch.nn.Linear(30, 20)
    with pytest.raises(ConfigError, match="must fit into the memory"), memory.MemoryLimit(2479):
        torch.nn.Linear(30, 20)
    with pytest.raises(ConfigError, match="6400 GB or more"), memory.MemoryLimit(10**10):
        torch.nn.Linear(400, 4 * 10**9)
