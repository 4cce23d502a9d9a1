"""Loggers: the same scalars for all, nothing twice after a resume."""

import importlib
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from lightning.pytorch.loggers import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from helpers import Command, train_run
from vae_lightning.checks.errors import ConfigError
from vae_lightning.config import options
from vae_lightning.config.compose import compose
from vae_lightning.config.instantiate import instantiate
from vae_lightning.training.loggers import MLflow, OncePerStep

SMALL = (
    "data=digits",
    "data.val_size=200",
    "model.latent_dim=2",
    "model.hidden_dims=[8]",
    "callbacks=none",
    "accelerator=cpu",
    "trainer.threads=1",
)


class Remembering(Logger):
    """Remembers what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int | None, dict[str, float]]] = []

    name = version = None

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.found.append((step, dict(metrics)))

    def log_hyperparams(self, *_: object) -> None:
        pass


class Once(OncePerStep, Remembering):
    """Each scalar once."""


def test_a_scalar_is_written_once_per_step_and_not_before_the_first_step() -> None:
    logger = Once()
    logger.first_step = 10
    logger.log_metrics({"a": 1.0, "epoch": 0}, 9)
    logger.log_metrics({"a": 2.0, "epoch": 0}, 10)
    logger.log_metrics({"a": 2.0, "b": 3.0}, 10)
    assert logger.found == [(10, {"a": 2.0}), (10, {"b": 3.0})]


@pytest.mark.parametrize("uri", ["runs", "file:///tmp/runs"])
def test_mlflow_in_a_folder_is_refused_in_one_line(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"must be a server .* or a database"):
        MLflow(Path("run"), {}, None, "experiment", None, uri)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            "logger=none +callbacks.a._target_=lightning.pytorch.callbacks.LearningRateMonitor",
            "logger=none: must be a logger for callbacks.a",
        ),
        ("logger=tensorbord", "logger=tensorbord: must be one of mlflow, none, tensorboard"),
    ],
)
def test_wrong_loggers_are_refused(overrides: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        options.check(compose("config", overrides.split()))


@pytest.mark.attack("a stored configuration that sends results to a server")
@pytest.mark.parametrize("name", ["Wandb", "MLflow"])
def test_a_stored_configuration_sends_nothing_without_trust(name: str) -> None:
    node = {"_target_": f"vae_lightning.training.loggers.{name}", "_partial_": True}
    with pytest.raises(ConfigError, match=r"sends the results to a server; set trust=true"):
        instantiate({"theirs": node}, "logger", trust=False)


@pytest.mark.slow
@pytest.mark.parametrize("word", ["logger=none", "logger=[]"])
def test_a_run_without_loggers_writes_its_own_files(
    train: Command, tmp_path: Path, word: str
) -> None:
    words = (*SMALL, word, "callbacks=[default]", "trainer.max_epochs=1")
    run = train_run(train, tmp_path, None, *words)
    names = {path.name for path in run.iterdir()}
    assert {"metrics.csv", "metrics.json", "pictures", "train.log"} <= names
    assert not {"tensorboard", "loggers.json"} & names


def tensorboard_scalars(run: Path) -> dict[str, list[int]]:
    """Name -> the steps that have a value; of the test, the last one, as TensorBoard shows it."""
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    names = [name for name in events.Tags()["scalars"] if not name.startswith("hp")]
    return {name: [event.step for event in events.Scalars(name)] for name in names}


@pytest.mark.slow
def test_mlflow_has_the_scalars_of_tensorboard_once_also_after_a_resume(
    train: Command, tmp_path: Path
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed: pip install mlflow")
    uri = f"sqlite:///{tmp_path / 'runs.db'}"
    words = (*SMALL, "logger=[tensorboard,mlflow]", f"logger.mlflow.tracking_uri='{uri}'")
    run = train_run(train, tmp_path, None, *words, "trainer.max_epochs=2")
    done = train("resume=run", "trainer.max_epochs=3", cwd=tmp_path)
    assert done.returncode == 2
    assert "trust=true" in done.stderr
    done = train("resume=run", "trainer.max_epochs=3", "trust=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    client = mlflow.MlflowClient(uri)
    (found,) = client.search_runs([client.get_experiment_by_name("vae_lightning").experiment_id])
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "run"
    assert found.data.params["model.latent_dim"] == "2"
    steps = {
        name: [each.step for each in client.get_metric_history(found.info.run_id, name)]
        for name in found.data.metrics
    }
    # the first test was after 24 steps
    assert steps.pop("test/neg_elbo") == [24, 36]
    shown = tensorboard_scalars(run)
    assert steps == {name: shown[name] for name in steps} | {
        name: [24, 36] for name in steps if name.startswith("test/")
    }
    assert {*shown} == {*steps, "test/neg_elbo"}
    assert len(steps["val/neg_elbo"]) == 3


def log_records(content: bytes) -> Iterator[bytes]:
    """The records of a file of W&B, in the log format of LevelDB after a header of 7 bytes.

    Blocks of 32 KiB hold parts: checksum (4 bytes), length (2), kind (1; 1 and 4 end a record).
    """
    record, place, block = b"", 7, 32768
    while place + 7 <= len(content):
        if block - place % block < 7:
            place += block - place % block
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def wandb_scalars(folder: Path) -> dict[str, list[int]]:
    """Name -> the steps that have a value, from the files of all processes of the run."""
    proto = importlib.import_module("wandb.proto.wandb_internal_pb2")
    found: dict[str, list[int]] = {}
    for path in sorted(folder.glob("offline-run-*/*.wandb")):
        for data in log_records(path.read_bytes()):
            items = {
                item.key or item.nested_key[0]: item.value_json
                for item in proto.Record.FromString(data).history.item
            }
            for name in items:
                if "/" in name and not name.startswith("trainer/"):
                    found.setdefault(name, []).append(int(items["trainer/global_step"]))
    return found


@pytest.mark.slow
def test_wandb_has_the_scalars_of_tensorboard_once_also_after_a_resume(
    train: Command, tmp_path: Path
) -> None:
    pytest.importorskip("wandb", reason="W&B is not installed: pip install wandb")
    words = (*SMALL, "logger=[tensorboard,wandb]", "logger.wandb.offline=true")
    run = train_run(train, tmp_path, None, *words, "trainer.max_epochs=2")
    done = train("resume=run", "trainer.max_epochs=3", "trust=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "outputs" / "wandb"
    found, shown = wandb_scalars(folder), tensorboard_scalars(run)
    assert found == shown | {name: [24, 36] for name in shown if name.startswith("test/")}
    assert len(found["val/neg_elbo"]) == 3
    assert len({path.name.split("-")[-1] for path in folder.glob("offline-run-*")}) == 1
