"""Measures the wall-clock seconds per epoch of a command: the time between its epoch lines."""

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

from benchmarks.checkout import environment
from benchmarks.workload import Contender, Workload

LINE = re.compile(rb"epoch +(\d+)/(\d+) +train [^\r\n]*?-elbo +([-\d.]+)")


@dataclass(frozen=True)
class Timing:
    """The times of one run, in seconds after the start of the command, and its last loss."""

    ends: tuple[float, ...]  # of each epoch
    whole: float  # end of the command
    loss: float  # -ELBO in nats per image
    memory: float = float("nan")  # peak, in MB

    @property
    def first(self) -> float:
        """Seconds from the start of the command to the end of its first epoch."""
        return self.ends[0]

    @property
    def epoch(self) -> float:
        """Median seconds per epoch without the first, which includes start-up.

        If there is only one epoch, it is the time of that epoch.
        """
        steady = [after - before for before, after in zip(self.ends, self.ends[1:], strict=False)]
        return statistics.median(steady) if steady else self.ends[0]


def timed(contender: Contender, workload: Workload) -> Timing:
    """Runs the command in its own terminal, so that progress bars are drawn, and times it.

    Raises RuntimeError if the command fails or does not print a line for every epoch.
    """
    with tempfile.TemporaryDirectory() as folder:
        reader, terminal = pty.openpty()
        command = contender.command(workload, Path(folder))
        checkout = contender.checkout
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdout=terminal,
            stderr=terminal,
            stdin=terminal,
            cwd=checkout,
            env=environment(checkout) if checkout else None,
        )
        os.close(terminal)
        output, ends, loss = read(reader, started)
        _, status, usage = os.wait4(process.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        whole = time.perf_counter() - started
        os.close(reader)
    if code or len(ends) != workload.epochs:
        raise RuntimeError(
            f"{contender.name}: exit code {code}, {len(ends)} epochs seen\n"
            f"{output[-3000:].decode(errors='replace')}"
        )
    return Timing(tuple(ends), whole, loss, megabytes(usage))


def megabytes(usage: resource.struct_rusage) -> float:
    """Returns the peak memory of a process in MB."""
    return usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def read(terminal: int, started: float) -> tuple[bytes, list[float], float]:
    """Returns the output, the end of each epoch in seconds after ``started``, and the last loss."""
    output, ends, loss = b"", [], float("nan")
    while True:
        try:
            part = os.read(terminal, 1 << 16)
        except OSError:  # raised when the command has closed the pseudo-terminal
            return output, ends, loss
        if not part:  # how some systems report the same
            return output, ends, loss
        output += part
        found = LINE.findall(output)
        if len(found) > len(ends):
            ends += [time.perf_counter() - started] * (len(found) - len(ends))
            loss = float(found[-1][2])


def interleaved(
    contenders: Sequence[Contender], workload: Workload, rounds: int
) -> dict[str, list[Timing]]:
    """Times the contenders in turn, A B C, A B C, ..., so that other load affects all of them."""
    timings: dict[str, list[Timing]] = {contender.name: [] for contender in contenders}
    for number in range(rounds):
        for contender in contenders:
            timing = timed(contender, workload)
            timings[contender.name].append(timing)
            print(
                f"round {number + 1}/{rounds}  {timing.epoch:7.3f} s/epoch  {contender.name}",
                flush=True,
            )
    return timings


def ratio(ours: Sequence[Timing], theirs: Sequence[Timing]) -> float:
    """Returns the median over the rounds of our seconds per epoch divided by theirs."""
    return statistics.median(a.epoch / b.epoch for a, b in zip(ours, theirs, strict=True))
