"""Runs the jobs of a sweep on this machine, several at a time.

A job of one process is forked from a process that has imported PyTorch already, which takes a few
hundredths of a second. A job of several processes is started as a command, because Lightning
repeats the command for each further process.
"""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Self

from vae_lightning.sweeps import job
from vae_lightning.sweeps.launchers.slots import Need
from vae_lightning.sweeps.plots import PLOTS

# Windows cannot fork: there, every job imports everything itself
FORKS = os.name != "nt"
PRELOADED = "vae_lightning.sweeps.preload"


class Running:
    """A job that was started."""

    reason = ""

    def __init__(self, process: "BaseProcess | Command", connection: Connection) -> None:
        self.process, self.connection = process, connection

    def exit_code(self) -> int | None:
        """How the process ended; None while it runs."""
        return self.process.exitcode

    def ask_to_stop(self) -> None:
        """Asks the job to save and end; it may have ended already."""
        try:
            self.connection.send_bytes(job.STOP)
        except OSError:
            return

    def kill(self) -> None:
        """Kills the job at once."""
        self.process.kill()

    def close(self) -> None:
        """Frees what belongs to an ended process."""
        self.connection.close()


class Command:
    """A job that runs as a command, with the part of multiprocessing's interface that is used."""

    def __init__(self, connection: Connection) -> None:
        number = connection.fileno()
        command = [sys.executable, "-m", "vae_lightning.sweeps.job", str(number)]
        # in a session of its own, Ctrl-C in the terminal does not reach it
        self.popen = subprocess.Popen(command, pass_fds=[number], start_new_session=True)

    @property
    def exitcode(self) -> int | None:
        """None while the process runs."""
        return self.popen.poll()

    def kill(self) -> None:
        """Kills the process and those that it has started."""
        os.killpg(self.popen.pid, signal.SIGKILL)


def pipe() -> tuple[Connection, Connection]:
    """The driver's end and the job's end of a pipe."""
    ours, theirs = multiprocessing.Pipe()
    assert isinstance(ours, Connection)
    assert isinstance(theirs, Connection)
    return ours, theirs


class LocalLauncher:
    """Starts processes on this machine, within a context."""

    def __enter__(self) -> Self:
        get = multiprocessing.get_context
        self.context = get("forkserver") if FORKS else get("spawn")
        self.context.set_forkserver_preload([PRELOADED])
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the process from which the jobs are forked.

        It would end by itself, but after an early error only when it has imported everything; until
        then a program that reads the output of this command would wait.
        """
        if not FORKS:
            return
        server = forkserver._forkserver._forkserver_pid  # pyright: ignore[reportAttributeAccessIssue] - there is no public way to end it
        if server is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(server, signal.SIGKILL)

    def preload(self) -> None:
        """Begins to import what the jobs have in common; returns at once."""
        if FORKS:
            forkserver.ensure_running()

    def start(self, task: job.Task, need: Need) -> Running:
        """Starts a job."""
        ours, theirs = pipe()
        if need.processes > 1:
            process: BaseProcess | Command = Command(theirs)
        else:
            process = self.context.Process(target=job.serve, args=(theirs,))
            process.start()
        theirs.close()
        ours.send(task)
        return Running(process, ours)

    def ask(self, configurations: list[bytes]) -> list[Any]:
        """Which data sets must fall back; see ``job.prepare``."""
        ours, theirs = pipe()
        process = self.context.Process(target=job.prepare, args=(theirs,))
        process.start()
        theirs.close()
        ours.send(configurations)
        answers = ours.recv()
        process.join()
        return answers

    def report(self, folder: Path) -> None:
        """Writes the report of a sweep in processes that have imported what they need."""
        processes = [
            self.context.Process(target=job.report_tables, args=(folder,)),
            self.context.Process(target=job.report_page, args=(folder,)),
            *(self.context.Process(target=job.report_plot, args=(folder, name)) for name in PLOTS),
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()

    @staticmethod
    def wait(running: Sequence[Running], seconds: float) -> None:
        """Waits until one of the jobs ends, which closes its pipe, at most so many seconds."""
        wait([each.connection for each in running], seconds)

    def keeps(self, number: int) -> bool:
        """No job outlives the driver."""
        return False
