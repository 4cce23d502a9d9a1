"""How many threads a run uses: as many as there are cores that are free for it."""

import logging
import os
import resource
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger(__name__)

MEASURED_S = 0.2  # the least time over which the load of the machine is measured


class Load(NamedTuple):
    """Processor time since the machine started."""

    clock: float  # seconds
    busy: float  # seconds of all cores that this process may use
    own: float  # seconds of this process and its children


def allowed_cores() -> set[int]:
    """The cores on which the operating system lets this process run."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def most_threads() -> int:
    """Threads that the cores, a container's quota and SLURM allow this process, at least 1."""
    limits = [float(len(allowed_cores()))]
    if quota := container_quota():
        limits.append(quota)
    variables = ("SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS")
    values = [os.environ.get(variable, "") for variable in variables]
    limits += [float(value) for value in values if value.isdigit()]
    return max(1, int(min(limits)))


def container_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Cores that a container's quota grants, None if it has none: cgroup version 2, then 1."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return None if quota in ("max", "-1") else float(quota) / float(period)


def load() -> Load | None:
    """The processor time used so far; None on a system that does not tell it."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return None
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    own = sum(part.ru_utime + part.ru_stime for part in usage)
    return Load(time.monotonic(), busy_seconds(lines, allowed_cores()), own)


def busy_seconds(lines: Iterable[str], cores: set[int]) -> float:
    """Seconds in which these cores were not idle, from the lines of /proc/stat."""
    busy = 0
    for line in lines:
        name, *values = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cores:
            user, nice, system, _idle, _wait, *interrupts = (int(value) for value in values[:8])
            busy += user + nice + system + sum(interrupts)
    return busy / os.sysconf("SC_CLK_TCK")


def free_threads(start: Load | None, processes: int = 1) -> int:
    """Threads for each of ``processes`` processes, so that no core is used that others need.

    Args:
        start: the load when the program began; what others used since then is not free.
        processes: of this run on this machine.
    """
    most = most_threads()
    taken = cores_taken(start)
    threads = max(1, int(most - taken) // processes)
    if threads * processes < most and taken:
        plural = "" if threads == 1 else "s"
        log.info(
            "threads: %d thread%s of %d, as other programs use %d of the cores;"
            " trainer.threads=%d uses all",
            threads,
            plural,
            most,
            taken,
            most // processes,
        )
    return threads


def cores_taken(start: Load | None) -> int:
    """Cores that other programs have used since ``start``, to the nearest whole number."""
    if start is None:
        return 0
    time.sleep(max(0.0, start.clock + MEASURED_S - time.monotonic()))
    now = load()
    assert now is not None
    others = (now.busy - start.busy) - (now.own - start.own)
    return max(0, round(others / (now.clock - start.clock)))
