"""Divides the cores and GPUs of a machine among the jobs of a sweep."""

import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from omegaconf import DictConfig

from vae_lightning.config.options import process_count
from vae_lightning.training.threads import most_threads


class Need(NamedTuple):
    """What a job claims."""

    processes: int
    threads: int | None  # of each process; None: as many as its slot has
    gpu: bool
    nodes: int = 1  # machines, each with so many processes

    @property
    def cores(self) -> int:
        """The least number of cores."""
        return self.processes * (self.threads or 1)


class Seat(NamedTuple):
    """What a running job holds."""

    cores: int
    threads: int  # of each process
    devices: tuple[str, ...]  # for CUDA_VISIBLE_DEVICES


class Room(ABC):
    """What jobs claim before they start; at most ``number`` of them at a time."""

    def __init__(self, number: int) -> None:
        self.number, self.taken = number, 0

    @property
    def is_full(self) -> bool:
        """Whether as many jobs run as may run at a time."""
        return self.taken >= self.number

    @abstractmethod
    def take(self, need: Need) -> Seat | None:
        """A seat for a job; None if it has to wait."""

    @abstractmethod
    def give_back(self, seat: Seat) -> None:
        """Frees the seat of a job that has ended."""


class Slots(Room):
    """The free cores and devices; a core and a place on a device are claimed by one job only.

    Args:
        needs: what each job of the sweep claims.
        cores: the number of cores that may be used.
        devices: the GPUs that may be used, by the names that CUDA_VISIBLE_DEVICES takes.
        slots: the number of jobs at a time; None: as many as have cores of their own.
        per_device: jobs of one process that share a GPU.
    """

    def __init__(
        self,
        needs: Sequence[Need],
        cores: int,
        devices: Sequence[str],
        slots: int | None,
        per_device: int,
    ) -> None:
        self.free_cores, self.per_device = cores, per_device
        self.free_places = dict.fromkeys(devices, per_device)
        on_gpu = any(need.gpu for need in needs)
        least = max((need.cores for need in needs), default=1)
        fitting = len(devices) * per_device if on_gpu and devices else max(1, cores // least)
        super().__init__(max(1, min(slots or fitting, len(needs))))
        self.counts_cores = slots is None
        self.share = max(1, cores // self.number)

    def take(self, need: Need) -> Seat | None:
        """A seat for a job; None if it has to wait. A job that is alone always gets one."""
        if self.is_full:
            return None
        cores = need.cores if need.threads else max(self.share, need.processes)
        if self.taken and self.counts_cores and cores > self.free_cores:
            return None
        devices = self.places(need)
        if devices is None:
            return None
        seat = Seat(cores, need.threads or max(1, cores // need.processes), devices)
        self.change(seat, -1)
        return seat

    def places(self, need: Need) -> tuple[str, ...] | None:
        """The devices for a job: the emptiest one, or whole ones for a job of several processes."""
        if not need.gpu or not self.free_places:
            return ()
        if need.processes == 1:
            name, places = max(self.free_places.items(), key=lambda item: item[1])
            return (name,) if places else None
        empty = [name for name, places in self.free_places.items() if places == self.per_device]
        return tuple(empty[: need.processes]) if len(empty) >= need.processes else None

    def give_back(self, seat: Seat) -> None:
        """Frees the seat of a job that has ended."""
        self.change(seat, 1)

    def change(self, seat: Seat, sign: int) -> None:
        """Adds (1) or removes (-1) what a seat holds."""
        self.taken -= sign
        self.free_cores += sign * seat.cores
        for name in seat.devices:
            self.free_places[name] += sign * (self.per_device if len(seat.devices) > 1 else 1)


def need_of(cfg: DictConfig, devices: Sequence[str]) -> Need:
    """What the job of a configuration claims on a machine with these GPUs."""
    kind, threads = cfg.accelerator.accelerator, cfg.trainer.threads
    gpu = kind in ("gpu", "cuda") or (kind == "auto" and bool(devices))
    if cfg.accelerator.strategy == "auto":
        processes = 1
    elif cfg.trainer.devices == "auto":
        processes = len(devices) if gpu else most_threads()
    else:
        processes = process_count(cfg)
    return Need(processes, None if threads == "auto" else threads, gpu)


def visible_devices() -> list[str]:
    """The NVIDIA GPUs of this machine, as CUDA_VISIBLE_DEVICES limits them, without PyTorch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    listed = subprocess.run([tool, "--list-gpus"], capture_output=True, text=True)
    return [str(number) for number, _ in enumerate(listed.stdout.splitlines())]
