"""Runs a sweep: several jobs at a time, each in its own process and folder.

All state is in the sweep folder, so that a sweep can be stopped at any moment and continued. The
driver imports no PyTorch.
"""

import contextlib
import signal
from pathlib import Path
from typing import NamedTuple

from vae_lightning.checks.errors import counted, one_line
from vae_lightning.storage.run_folder import write_failure
from vae_lightning.sweeps.display import Display, Entry
from vae_lightning.sweeps.launchers.launcher import Launcher, Running
from vae_lightning.sweeps.launchers.slots import Room, Seat
from vae_lightning.sweeps.work import Jobs, Work, state_of
from vae_lightning.training.signals import StopSignals

POLLED_S = 0.2


class Active(NamedTuple):
    """A job that was started."""

    work: Work
    running: Running
    seat: Seat
    log_start: int  # bytes of the log that earlier attempts wrote


class Driver:
    """Starts jobs as slots become free, and records how they end.

    Args:
        jobs: says which jobs are to be run.
        room: what they claim.
        launcher: starts them.
        display: shows what happens.
        stops_on_error: after a failed job, stop the others.
    """

    def __init__(
        self,
        jobs: Jobs,
        room: Room,
        launcher: Launcher,
        display: Display,
        stops_on_error: bool,
    ) -> None:
        self.jobs, self.active = jobs, list[Active]()
        self.waiting: Work | None = None  # the next job, for which there was no room
        self.room, self.launcher, self.display = room, launcher, display
        self.stops_on_error = stops_on_error
        self.is_stopping = False

    def run(self, stop: StopSignals) -> None:
        """Runs all jobs; after a signal, asks the running ones to save and waits for them.

        If the launcher keeps them, it leaves them running instead.
        """
        with stop.deferred(self.kill_all):
            while True:
                if stop.received is not None and not self.is_stopping:
                    if self.launcher.keeps(stop.received):
                        self.display.say(f"{counted(len(self.active), 'job')} left running")
                        break
                    self.ask_to_stop()
                if not self.is_stopping:
                    self.start_waiting()
                if not self.active and (self.waiting is None or self.is_stopping):
                    break
                self.launcher.wait([each.running for each in self.active], POLLED_S)
                for each in list(self.active):
                    if (code := each.running.exit_code()) is not None:
                        self.end(each, code)
                self.jobs.watch([each.work for each in self.active])
                self.display.tick()

    def start_waiting(self) -> None:
        """Starts the next jobs for which there is room."""
        while not self.room.is_full:
            work = self.waiting or self.jobs.next()
            if work is None:
                break
            seat = self.room.take(work.need)
            if seat is None:
                self.waiting = work
                break
            variables = {"CUDA_VISIBLE_DEVICES": ",".join(seat.devices)} if seat.devices else {}
            task = work.task._replace(threads=seat.threads, variables=variables)
            size = task.log.stat().st_size if task.log.is_file() else 0
            running = self.launcher.start(task, work.need)
            if running is None:
                self.room.give_back(seat)
                self.waiting = work
                break
            self.waiting = None
            self.active.append(Active(work, running, seat, size))
            self.display.started(entry_of(work))

    def end(self, active: Active, code: int) -> None:
        """Records how a job has ended, and frees what it held."""
        self.active.remove(active)
        active.running.close()
        self.room.give_back(active.seat)
        job, task = active.work.job, active.work.task
        reason = ""
        if code == 0:
            state = "pruned" if state_of(task.folder) == "pruned" else "finished"
        elif code in (130, 143):
            state = "interrupted"
        else:
            reason = active.running.reason or reason_of(task.log, active.log_start, code)
            state = "failed"
            with contextlib.suppress(OSError):  # of a full disk: the table has the old state then
                write_failure(task.folder, reason)
            if self.stops_on_error:
                self.ask_to_stop()
        self.jobs.ended(active.work, state)
        self.display.ended(job, state, reason, task.log)

    def ask_to_stop(self) -> None:
        """Asks all running jobs to save and end; no further one is started."""
        self.is_stopping = True
        for each in self.active:
            each.running.ask_to_stop()

    def kill_all(self) -> None:
        """Kills all running jobs at once."""
        for each in self.active:
            each.running.kill()


def entry_of(work: Work) -> Entry:
    """What is shown of a job."""
    return Entry(work.job, work.task.folder, work.epochs)


def reason_of(log: Path, start: int, code: int) -> str:
    """Why a job failed: the signal that killed it, or the last line that it printed."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    text = log.read_bytes()[start:].decode(errors="replace") if log.is_file() else ""
    lines = [line for line in text.splitlines() if line.strip()]
    last = one_line(lines[-1]).removeprefix("error: ") if lines else ""
    return last or f"the process ended with exit code {code}"
