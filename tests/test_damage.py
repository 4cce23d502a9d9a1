"""Every damaged file of a run folder is one line, in every function that reads the folder."""

import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from helpers import Command, train_run
from vae_lightning.checks.errors import ConfigError
from vae_lightning.runs.differences import differences, environment_differences
from vae_lightning.runs.load import load_run
from vae_lightning.runs.stored import read_stored
from vae_lightning.sweeps.results import read_result
from vae_lightning.training.callbacks.recorder import Recorder
from vae_lightning.training.checkpoint import saved_progress

pytestmark = pytest.mark.slow

FILES = (
    ".hydra/config.yaml",
    ".hydra/overrides.yaml",
    ".hydra/hydra.yaml",
    "status.json",
    "metrics.json",
    "metrics.csv",
    "environment.json",
    "checkpoints/best.ckpt",
    "checkpoints/last.ckpt",
)
NOISE = random.Random(0).randbytes(200)
# how a file is damaged: its bytes -> other bytes; None: a folder stands in its place
DAMAGES: dict[str, Callable[[bytes], bytes] | None] = {
    "empty": lambda _: b"",
    "cut": lambda content: content[: len(content) // 2],
    "noise": lambda _: NOISE,
    "null": lambda _: b"null",
    "list": lambda _: b"[]",
    "object": lambda _: b"{}",
    "text": lambda _: b"hello",
    "number": lambda _: b"5",
    "no utf-8": lambda content: content[:20] + b"\xff\xfe" + content[20:],
    "nested": lambda _: b"[" * 5000,
    "folder": None,
}


@pytest.fixture(scope="module")
def finished(train: Command, tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damage")
    sizes = ("model.latent_dim=2", "model.hidden_dims=[4]", "data.val_size=50")
    return train_run(train, folder, tiny_root, *sizes, "trainer.max_epochs=1")


@pytest.mark.attack("damaged file of a run folder", 7)
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kind", [*DAMAGES, "missing"])
def test_a_damaged_file_is_refused_or_not_needed(
    finished: Path, tmp_path: Path, file: str, kind: str
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    content = (run / file).read_bytes()
    (run / file).unlink()
    damage = DAMAGES.get(kind)
    if damage is not None:
        (run / file).write_bytes(damage(content))
    elif kind == "folder":
        (run / file).mkdir()
    for read in (
        lambda: load_run(run),
        lambda: load_run(run, "last"),
        lambda: read_stored(run, "resume"),
        lambda: saved_progress(run, Recorder(run, "neg_elbo").state_key),
        lambda: differences(finished, run),
        lambda: environment_differences(finished, run),
    ):
        with suppress(ConfigError):  # every other exception fails the test
            read()
    found = read_result(run)  # a damaged job does not hide the other jobs of a sweep
    assert found.state in ("finished", "damaged", "not started")
