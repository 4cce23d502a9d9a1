"""One job of a sweep, in its own process.

The process takes its task from a pipe, and ends in order if the pipe says so or closes, which it
does when the driver dies. Only one process at a time works on a job: what an earlier driver
started may still be saving.
"""

import contextlib
import os
import pickle
import signal
import sys
import threading
from contextlib import nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from filelock import FileLock
from omegaconf import DictConfig

from vae_lightning.checks.errors import ConfigError
from vae_lightning.cli.command import exit_codes
from vae_lightning.config import options
from vae_lightning.config.environment import is_started_process
from vae_lightning.config.fallback import use_fallback
from vae_lightning.runs import start
from vae_lightning.runs.stored import CONFIG
from vae_lightning.storage.run_folder import LAST, new_folder, read_status
from vae_lightning.sweeps.page import write_page
from vae_lightning.sweeps.plots import save_plot
from vae_lightning.sweeps.results import collect, settings
from vae_lightning.sweeps.tables import write_papers
from vae_lightning.training.signals import StopSignals

if TYPE_CHECKING:
    from vae_lightning.training.experiment import Result

STOP = b"stop"  # what the driver sends to end a job in order


class Task(NamedTuple):
    """What a job needs to know."""

    folder: Path
    overrides: tuple[str, ...]
    cfg: bytes  # the pickled configuration
    log: Path  # receives everything that the job prints
    lock: Path
    replaced: bool  # use data.fallback instead of the data set
    threads: int = 1  # for trainer.threads=auto
    variables: dict[str, str] | None = None  # of the environment


def serve(connection: Connection) -> None:
    """Receives a task, works on it, and exits with the code of a command."""
    try:
        task: Task = connection.recv()
    except EOFError:  # the driver died before it sent the task
        return
    redirect(task.log)
    os.environ.update(task.variables or {})
    with exit_codes(), StopSignals() as stop:
        listener = threading.Thread(target=obey, args=(connection, stop), daemon=True)
        listener.start()
        with FileLock(task.lock):
            train(task, stop)


def redirect(log: Path) -> None:
    """Sends standard output and error to a file, and gives the process no input."""
    sys.stdout.flush()
    sys.stderr.flush()
    log.parent.mkdir(exist_ok=True)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    source = os.open(os.devnull, os.O_RDONLY)
    for descriptor, number in ((source, 0), (target, 1), (target, 2)):
        os.dup2(descriptor, number)


def obey(connection: Connection, stop: StopSignals) -> None:
    """Waits for the word to stop, or for the death of the driver, and sends SIGTERM to itself."""
    with contextlib.suppress(EOFError, OSError):  # the driver is gone
        connection.recv_bytes()
    end_in_order(stop)


def end_in_order(stop: StopSignals) -> None:
    """Asks this process to save and end, unless it was asked already."""
    if stop.received is None:  # a second signal would not let the job save
        os.kill(os.getpid(), signal.SIGTERM)


def train(task: Task, stop: StopSignals, is_further: bool = False) -> None:
    """Starts, continues or, if it is finished or pruned already, leaves the run of a task.

    ``is_further`` is true in all processes of a run of several machines but the first. That one may
    have written the configuration already; no process gets to a checkpoint without the others.
    """
    if read_status(task.folder).get("state") == "pruned":  # by an earlier driver, a moment ago
        return
    cfg: DictConfig = pickle.loads(task.cfg)
    if (task.folder / (LAST if is_further else CONFIG)).is_file():
        show(start.resume(task.folder, ["trust=true"] if cfg.trust else [], stop))
        return
    if task.replaced:
        use_fallback(cfg)
    cfg.data.fallback = None  # the driver has found the files of the data set
    if cfg.trainer.threads == "auto":
        cfg.trainer.threads = task.threads
    options.settle(cfg)
    folder = nullcontext(task.folder) if is_further else new_folder(task.folder, exclusive=False)
    show(start.run(cfg, folder, stop, task.overrides))


def show(result: "Result | None") -> None:
    """Prints the table of a run, which the file of the job's output receives."""
    if result is not None:
        print(result.table)


def prepare(connection: Connection) -> None:
    """Answers which of the received data configurations must fall back.

    For each of them the answer is the name of the data set that is used, or a ConfigError.
    """
    from vae_lightning.training.assembly import find_files

    answers: list[str | ConfigError] = []
    for pickled in connection.recv():
        cfg = pickle.loads(pickled)
        try:
            find_files(cfg)
            answers.append(cfg.data.name)
        except ConfigError as error:
            answers.append(error)
    connection.send(answers)


def report_tables(folder: Path) -> None:
    """Writes the tables of a sweep, and the columns for TensorBoard."""
    from vae_lightning.sweeps.hparams import write_columns

    results = collect([folder])
    write_papers(settings(results), folder)
    write_columns(results, folder)


def report_page(folder: Path) -> None:
    """Writes the page of a sweep."""
    write_page(collect([folder]), folder)


def report_plot(folder: Path, name: str) -> None:
    """Draws one of the plots of a sweep."""
    save_plot(name, settings(collect([folder])), folder)


def main() -> None:
    """A job as a command of its own, for runs of several processes; see ``launchers.local``."""
    if is_started_process():
        with exit_codes():
            start.join()
    else:
        serve(Connection(int(sys.argv[1])))


if __name__ == "__main__":
    main()
