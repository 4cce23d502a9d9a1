"""How many threads a run uses: what the machine allows, less what other programs use."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vae_lightning.training import threads

STAT = """cpu  1 1 1 1
cpu0 100 20 30 4000 50 6 7 8 0 0
cpu1 200 0 0 9000 0 0 0 0 0 0
cpu2 300 0 0 9000 0 0 0 0 0 0
intr 5
"""


def test_busy_seconds_are_those_of_the_allowed_cores_without_idle_and_wait() -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    assert threads.busy_seconds(STAT.splitlines(), {0}) == (100 + 20 + 30 + 6 + 7 + 8) / ticks
    assert threads.busy_seconds(STAT.splitlines(), {1, 2}) == 500 / ticks


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_a_containers_quota_is_read(
    tmp_path: Path, files: dict[str, str], expected: float | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert threads.container_quota(tmp_path) == expected


@pytest.mark.parametrize(
    ("quota", "variables", "expected"),
    [
        (None, {}, 8),
        (2.5, {}, 2),
        (0.5, {}, 1),
        (None, {"SLURM_CPUS_PER_TASK": "3"}, 3),
        (None, {"SLURM_CPUS_PER_TASK": "3", "OMP_NUM_THREADS": "2"}, 2),
    ],
)
def test_the_smallest_limit_counts(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, variables: dict[str, str], expected: int
) -> None:
    for name in ("SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(threads, "allowed_cores", lambda: set(range(8)))
    monkeypatch.setattr(threads, "container_quota", lambda: quota)
    assert threads.most_threads() == expected


@pytest.mark.parametrize(
    ("taken", "processes", "expected"), [(0, 1, 4), (1, 1, 3), (4, 1, 1), (9, 1, 1), (0, 2, 2)]
)
def test_cores_that_others_use_are_left_to_them(
    monkeypatch: pytest.MonkeyPatch, taken: int, processes: int, expected: int
) -> None:
    monkeypatch.setattr(threads, "most_threads", lambda: 4)
    monkeypatch.setattr(threads, "cores_taken", lambda _: taken)
    assert threads.free_threads(None, processes) == expected


def test_what_this_process_uses_itself_is_not_taken_by_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = threads.Load(clock=time.monotonic() - 2, busy=10.0, own=1.0)
    now = threads.Load(clock=start.clock + 2, busy=13.9, own=2.9)  # 3.9 s of which 1.9 s are ours
    monkeypatch.setattr(threads, "load", lambda: now)
    assert threads.cores_taken(start) == 1
    monkeypatch.setattr(threads, "load", lambda: now._replace(own=4.8))
    assert threads.cores_taken(start) == 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="this system has no /proc/stat")
def test_a_busy_program_is_seen() -> None:
    start = threads.load()
    assert start is not None
    busy = "import time; end = time.time() + 1\nwhile time.time() < end: pass"
    with subprocess.Popen([sys.executable, "-c", busy]) as process:
        time.sleep(0.9)
        now = threads.load()
        process.wait()
    assert now is not None
    others = (now.busy - start.busy) - (now.own - start.own)
    assert others > 0.4  # of 0.9 s, on a machine that others may use too
