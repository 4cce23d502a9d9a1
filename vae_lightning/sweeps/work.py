"""The jobs that the driver of a sweep is to run, and what each of them takes."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from vae_lightning.checks.errors import ConfigError
from vae_lightning.storage.run_folder import read_status
from vae_lightning.sweeps.job import Task
from vae_lightning.sweeps.launchers.slots import Need
from vae_lightning.sweeps.plan import Job, Plan

LOCKS, LOGS = ".locks", "logs"  # folders in a sweep folder
ENDED = ("finished", "pruned")  # states of jobs that do not run again


class Work(NamedTuple):
    """A job that is not finished, and what it takes to run it."""

    job: Job
    task: Task
    need: Need
    epochs: int


class Jobs:
    """The jobs of a grid, in order. A search decides about each job when there is room for it."""

    def __init__(self, works: Sequence[Work]) -> None:
        self.works = list(works)

    def next(self) -> Work | None:
        """The next job to run; None if there is none at the moment."""
        return self.works.pop(0) if self.works else None

    def watch(self, works: Sequence[Work]) -> None:
        """Called several times a second with the jobs that run."""

    def ended(self, work: Work, state: str) -> None:
        """Called when a job has ended."""


def make_task(job: Job, cfg: DictConfig, plan: Plan, place: Path) -> Task:
    """What a job needs to know; ``place`` is the sweep folder."""
    return Task(
        place / job.name,
        job.overrides,
        pickle.dumps(cfg),
        place / LOGS / f"{job.name}.log",
        place / LOCKS / job.name,
        plan.replaced.get(cfg.data.name, cfg.data.name) != cfg.data.name,
    )


def make_work(job: Job, cfg: DictConfig, plan: Plan, place: Path, need: Need) -> Work:
    """What it takes to run a job, whose files are in the sweep folder ``place``."""
    (place / LOCKS).mkdir(exist_ok=True)
    return Work(job, make_task(job, cfg, plan, place), need, cfg.trainer.max_epochs)


def state_of(job: Path) -> str:
    """The state of a job; a damaged status.json counts as a job that has to continue."""
    try:
        return str(read_status(job).get("state", "not started"))
    except ConfigError:
        return "damaged"
