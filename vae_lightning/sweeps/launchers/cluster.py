"""What all clusters have in common: jobs are commands on machines that see the same files.

A job goes on when its driver ends. All that a later driver needs is in the sweep folder: the job
writes its exit code into a file, and ends in order when a file asks it to.
"""

import hashlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from vae_lightning.checks.errors import ConfigError
from vae_lightning.config.options import process_count
from vae_lightning.storage.run_folder import LAST
from vae_lightning.sweeps.job import Task
from vae_lightning.sweeps.launchers.slots import Need, Room, Seat

LOOKED_S = 1.0  # between two looks at the files of the jobs
SEEN_S = 10.0  # a shared file system may show a file of another machine that much later


class Queue(Room):
    """A number of jobs that wait or run on a cluster, which itself divides cores and devices."""

    def __init__(self, number: int, cpus: int) -> None:
        super().__init__(number)
        self.cpus = cpus

    def take(self, need: Need) -> Seat | None:
        """A seat for a job; None if it has to wait."""
        if self.is_full:
            return None
        self.taken += 1
        return Seat(0, need.threads or self.cpus, ())

    def give_back(self, seat: Seat) -> None:
        """Frees the seat of a job that has ended."""
        self.taken -= 1


class Files:
    """The files by which a job and its drivers talk, next to its lock."""

    def __init__(self, lock: Path) -> None:
        self.stop = lock.with_name(f"{lock.name}.stop")  # asks the job to save and end
        self.code = lock.with_name(f"{lock.name}.code")  # the exit code of the job
        self.id = lock.with_name(f"{lock.name}.id")  # of the cluster

    def read_code(self) -> int | None:
        """The exit code of the job; None if it has not ended, or was killed."""
        text = self.code.read_text() if self.code.is_file() else ""
        return int(text) if text.strip().isdigit() else None

    def remove(self) -> None:
        """Removes what only a running job needs."""
        self.id.unlink(missing_ok=True)
        self.stop.unlink(missing_ok=True)

    @property
    def is_done(self) -> bool:
        """Whether the job has ended well since a driver looked last."""
        return self.id.is_file() and self.read_code() == 0


class Attempt:
    """One attempt to run a job: whether it got on, and since when it is gone."""

    def __init__(self, task: Task) -> None:
        self.checkpoint = task.folder / LAST
        self.before = self.saved()
        self.gone_at: float | None = None

    def saved(self) -> int:
        """When the job saved last, in nanoseconds; 0 if it has not."""
        return self.checkpoint.stat().st_mtime_ns if self.checkpoint.is_file() else 0

    @property
    def has_saved(self) -> bool:
        """Whether the job has saved in this attempt."""
        return self.saved() != self.before

    def is_just_gone(self) -> bool:
        """Whether the job is gone since so short a time that its files may not be visible here."""
        if self.gone_at is None:
            self.gone_at = time.monotonic()
        return time.monotonic() < self.gone_at + SEEN_S


def command_of(task: Task, trust: bool) -> list[str]:
    """The command that runs a job on a machine of a cluster."""
    words = [str(task.folder.parent), task.folder.name, str(task.threads)]
    return [
        sys.executable,
        "-m",
        "vae_lightning.sweeps.node",
        *words,
        *(["--trust"] if trust else []),
    ]


def name_of(task: Task) -> str:
    """The name of a job on a cluster, which no job of another sweep folder has."""
    digest = hashlib.blake2b(os.fsencode(task.folder.parent), digest_size=4).hexdigest()
    return f"{task.folder.name}-{digest}"


def need_on(kind: str, options: DictConfig, cfg: DictConfig) -> Need:
    """What the job of a configuration claims on a cluster; raises ConfigError if it cannot run."""
    accelerator, devices = cfg.accelerator.accelerator, cfg.trainer.devices
    is_gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and options.gpus > 0)
    if is_gpu and not options.gpus:
        raise ConfigError(f"accelerator={accelerator}: requires launcher.gpus=1 on a cluster")
    is_single, nodes = cfg.accelerator.strategy == "auto", cfg.accelerator.num_nodes
    if not is_single and devices == "auto":
        raise ConfigError(f"trainer.devices=auto: must be a number with launcher={kind}")
    if nodes > 1 and cfg.seed is None:
        raise ConfigError("seed=null: must be a number with accelerator=multi_node")
    threads = None if cfg.trainer.threads == "auto" else cfg.trainer.threads
    return Need(1 if is_single else process_count(cfg), threads, is_gpu, nodes)


def keeps(number: int) -> bool:
    """Only Ctrl-C stops the jobs: a driver whose terminal is closed leaves them running."""
    return number != signal.SIGINT


def wait(_: Sequence[object], seconds: float) -> None:
    """Waits between two looks at the files of the jobs."""
    time.sleep(max(seconds, LOOKED_S))
