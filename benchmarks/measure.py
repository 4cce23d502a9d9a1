"""Seconds of an epoch of a command, by the clock on the wall: the time between the lines that end its epochs."""

import os
import pty
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.workload import Contender, Workload

LINE = re.compile(rb"epoch +(\d+)/(\d+) +train [^\r\n]*?-elbo +([-\d.]+)")


@dataclass(frozen=True)
class Timing:
    """Of one run: seconds from the command to each epoch's end, and of the whole command; the last training loss."""

    ends: tuple[float, ...]
    whole: float
    loss: float
    memory: float = float("nan")  # MB at most

    @property
    def first(self) -> float:
        """Seconds from the command to the end of its first epoch."""
        return self.ends[0]

    @property
    def epoch(self) -> float:
        """Median seconds of an epoch after the first, which also warms up; with one epoch, that one."""
        steady = [after - before for before, after in zip(self.ends, self.ends[1:], strict=False)]
        return statistics.median(steady) if steady else self.ends[0]


def timed(contender: Contender, workload: Workload) -> Timing:
    """Runs the command on a terminal of its own, so that progress bars are drawn; RuntimeError if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        reader, terminal = pty.openpty()
        command = contender.command(workload, Path(folder))
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=terminal, stderr=terminal, stdin=terminal)
        os.close(terminal)
        output, ends, loss = read(reader, started)
        _, status, usage = os.wait4(process.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        whole = time.perf_counter() - started
        os.close(reader)
    if code or len(ends) != workload.epochs:
        raise RuntimeError(f"{contender.name}: exit code {code}, {len(ends)} epochs seen\n{output[-3000:].decode()}")
    return Timing(tuple(ends), whole, loss, megabytes(usage))


def megabytes(usage: resource.struct_rusage) -> float:
    """The most memory that a process held."""
    return usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def read(terminal: int, started: float) -> tuple[bytes, list[float], float]:
    """Everything printed, when each epoch ended (seconds after ``started``), and the last loss."""
    output, ends, loss = b"", [], float("nan")
    while True:
        try:
            part = os.read(terminal, 1 << 16)
        except OSError:  # how a pseudo-terminal says that the other side is closed
            return output, ends, loss
        output += part
        found = LINE.findall(output)
        if len(found) > len(ends):
            ends += [time.perf_counter() - started] * (len(found) - len(ends))
            loss = float(found[-1][2])


def interleaved(contenders: Sequence[Contender], workload: Workload, rounds: int) -> dict[str, list[Timing]]:
    """A B C, A B C, ...: what the machine does meanwhile hits all of them."""
    timings: dict[str, list[Timing]] = {contender.name: [] for contender in contenders}
    for number in range(rounds):
        for contender in contenders:
            timing = timed(contender, workload)
            timings[contender.name].append(timing)
            print(f"round {number + 1}/{rounds}  {timing.epoch:7.3f} s/epoch  {contender.name}", flush=True)
    return timings


def ratio(ours: Sequence[Timing], theirs: Sequence[Timing]) -> float:
    """Median over the rounds of our seconds per epoch / theirs."""
    return statistics.median(a.epoch / b.epoch for a, b in zip(ours, theirs, strict=True))
