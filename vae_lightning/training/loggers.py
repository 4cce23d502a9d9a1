"""Loggers of a run: what they have in common, Weights & Biases, and MLflow.

TensorBoard's is in ``tensorboard``. All of them get the same scalars.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger
from omegaconf import DictConfig

from vae_lightning.checks.errors import ConfigError, Interrupted
from vae_lightning.checks.ranges import AnyOf, Boolean, Choice, Option, Text
from vae_lightning.config.instantiate import resolve
from vae_lightning.storage.files import read_json, write_json
from vae_lightning.storage.run_folder import to_dict

OUTPUTS = Path("outputs")  # of all runs
STATE = Path("loggers.json")  # in a run folder: the names of the run on servers, and what they have
Optional = AnyOf((Text("a text"), Choice((None,))))


class OncePerStep(Logger):
    """A logger that writes each scalar once per step, and no scalar ``epoch``.

    Its constructor takes ``run``, the run folder; ``state``, what ``remember`` has written, of a
    run that continues; and ``first_step``, at which it continues, None for a new run.

    Lightning logs the terms of a training epoch after the checkpoint of that epoch. A run that is
    killed between the two would never log them, so the recorder logs them first.

    Attributes:
        first_step: a resumed run has written the steps before it already.
    """

    first_step = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - those of Lightning's logger
        super().__init__(*args, **kwargs)
        self.logged_at: dict[str, int | None] = {}
        self.logged_by_validation: set[str] = set()

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Writes the scalars that were not written for this step yet."""
        new = {
            name: value
            for name, value in metrics.items()
            if name != "epoch" and self.logged_at.get(name, -1) != step
        }
        self.logged_at |= dict.fromkeys(new, step)
        if new and (step is None or step >= self.first_step):
            super().log_metrics(new, step)

    def log_epoch(self, metrics: Mapping[str, float], step: int) -> None:
        """Writes the scalars of an epoch to the file, without those of an earlier validation."""
        self.logged_by_validation |= {name for name in metrics if self.logged_at.get(name) == step}
        others = {k: value for k, value in metrics.items() if k not in self.logged_by_validation}
        self.log_metrics(others, step)
        self.flush()

    def flush(self) -> None:
        """Writes what is in memory, where the logger keeps something there."""

    def close(self, status: str) -> None:
        """Ends the record of a run that is FINISHED, FAILED or KILLED (interrupted)."""

    def state(self) -> dict[str, str]:
        """The name of the run on a server, with which a resumed run continues."""
        return {}


class Wandb(OncePerStep, WandbLogger):
    """Weights & Biases; writes into outputs/wandb, because its links would leave the run folder.

    Args:
        run, state, first_step: see OncePerStep.
        project: name of the project.
        entity: user or team.
        name: name of the run; None: that of its folder.
        offline: write files only; ``wandb sync`` uploads them.
    """

    def __init__(
        self,
        run: Path,
        state: Mapping[str, Any],
        first_step: int | None,
        project: Annotated[str, Option("project of W&B", Text("a name"))],
        entity: Annotated[str | None, Option("user or team of W&B", Optional)],
        name: Annotated[str | None, Option("name of the run; null: its folder", Optional)],
        offline: Annotated[bool, Option("true: nothing is sent", Boolean())],
    ) -> None:
        OUTPUTS.mkdir(exist_ok=True)
        super().__init__(
            name=name or run.name,
            save_dir=OUTPUTS.resolve(),
            project=project,
            entity=entity,
            offline=offline,
            id=state.get("wandb_id"),
        )
        self.first_step = state.get("steps", 0)

    def close(self, status: str) -> None:
        """Waits until everything is written or sent."""
        self.experiment.finish(exit_code=0 if status == "FINISHED" else 1)

    def state(self) -> dict[str, str]:
        """The identifier of the run."""
        return {"wandb_id": self.experiment.id}


class MLflow(OncePerStep, MLFlowLogger):
    """MLflow.

    Args:
        run, state, first_step: see OncePerStep.
        experiment_name: name of the experiment.
        run_name: name of the run; None: that of its folder.
        tracking_uri: address of a server or a database; None: MLFLOW_TRACKING_URI or, without it,
            outputs/mlflow.db here.

    Raises ConfigError for a folder: MLflow 3 does not write to one.
    """

    def __init__(
        self,
        run: Path,
        state: Mapping[str, Any],
        first_step: int | None,
        experiment_name: Annotated[str, Option("experiment of MLflow", Text("a name"))],
        run_name: Annotated[str | None, Option("name of the run; null: its folder", Optional)],
        tracking_uri: Annotated[
            str | None, Option("server or database; null: outputs/mlflow.db", Optional)
        ],
    ) -> None:
        database = OUTPUTS.resolve() / "mlflow.db"
        uri = state.get("mlflow_uri") or tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        uri = uri or f"sqlite:///{database}"
        if "://" not in uri or uri.startswith("file:"):
            raise ConfigError(
                f"logger.mlflow.tracking_uri={uri}: must be a server (https://...) or a database"
                " (sqlite:///...), because MLflow does not write to a folder"
            )
        if uri == f"sqlite:///{database}":
            OUTPUTS.mkdir(exist_ok=True)
        super().__init__(experiment_name, run_name or run.name, uri, run_id=state.get("mlflow_id"))
        self.uri, self.first_step = uri, state.get("steps", 0)

    def finalize(self, status: str = "success") -> None:
        """Does nothing: Lightning calls it before the test."""

    def close(self, status: str) -> None:
        """Ends the run on the server."""
        self.experiment.set_terminated(self.run_id, status)

    def state(self) -> dict[str, str]:
        """The identifier of the run, and where it is."""
        return {"mlflow_id": str(self.run_id), "mlflow_uri": self.uri}


def build_loggers(cfg: DictConfig, run: Path, first_step: int | None) -> list[Logger]:
    """The loggers of the configuration.

    ``first_step`` is the step at which a resumed run continues; None for a new run. A logger of
    another package is built with the arguments of the configuration alone.
    """
    state = {} if first_step is None else read_json(run / STATE)
    found = []
    for make in resolve(to_dict(cfg.logger), "logger", cfg.trust).values():
        place = {"run": run, "state": state, "first_step": first_step}
        logger = make.build()
        found.append(logger(**place) if make.is_partial else logger)
    return found


def remember(trainer: Trainer, run: Path, steps: int) -> None:
    """Writes which steps the servers have; steps before this one are not logged again."""
    states = [each.state() for each in trainer.loggers if isinstance(each, OncePerStep)]
    if any(states):
        merged: dict[str, object] = {key: value for each in states for key, value in each.items()}
        write_json(run / STATE, merged | {"steps": steps})


@contextmanager
def closing(loggers: Sequence[Logger]) -> Iterator[None]:
    """Ends the records of the loggers after the body."""
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except (Interrupted, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        for logger in loggers:
            if isinstance(logger, OncePerStep):
                logger.close(status)
