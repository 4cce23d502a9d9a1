"""One job of a sweep on a machine of a cluster, as a command: SWEEP NAME THREADS [--trust].

The job reads its words from sweep.yaml. It ends in order if a file asks it to, see
``launchers.cluster``, after a signal, or if the process that started it dies. Before a time limit
SLURM sends SIGUSR2; the job then saves and asks SLURM to be queued again.
"""

import argparse
import os
import signal
import subprocess
import threading
import time
from contextlib import nullcontext
from pathlib import Path

from filelock import FileLock

from vae_lightning.checks.errors import ConfigError, Interrupted
from vae_lightning.cli.command import exit_codes
from vae_lightning.config.environment import is_started_process, rank
from vae_lightning.runs import start
from vae_lightning.storage.files import write_text
from vae_lightning.sweeps import job
from vae_lightning.sweeps.launchers.cluster import Attempt, Files
from vae_lightning.sweeps.plan import check_trusted, configuration, read_plan
from vae_lightning.sweeps.work import LOCKS, LOGS, make_task
from vae_lightning.training.signals import StopSignals

LOOKED_S = 0.5


def main() -> None:
    """Runs the job and writes its exit code; joins it as a further process of local DDP."""
    if is_started_process():
        with exit_codes():
            start.join()
        return
    parser = argparse.ArgumentParser(prog="python -m vae_lightning.sweeps.node")
    parser.add_argument("sweep", type=Path)
    parser.add_argument("name")
    parser.add_argument("threads", type=int)
    parser.add_argument("--trust", action="store_true")
    args = parser.parse_args()
    if rank():  # of a run of several machines: the first process decides and reports
        with exit_codes():
            run(args)
        return
    place = args.sweep / LOCKS / args.name
    files, code = Files(place), 1
    files.code.unlink(missing_ok=True)
    try:
        job.redirect(args.sweep / LOGS / f"{args.name}.log")
        with exit_codes():
            run(args)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        raise
    finally:
        write_text(files.code, f"{code}\n")


def run(args: argparse.Namespace) -> None:
    """Runs the job of a stored sweep."""
    with StopSignals() as stop:
        plan = read_plan(args.sweep, "sweep")
        if not args.trust:
            check_trusted(plan, f"sweep={args.sweep}")
        found = next((each for each in plan.jobs if each.name == args.name), None)
        if found is None:
            raise ConfigError(f"{args.sweep}: has no job {args.name}")
        cfg = configuration(found, plan, args.trust)
        task = make_task(found, cfg, plan, args.sweep)._replace(threads=args.threads)
        is_further = cfg.accelerator.num_nodes > 1 and rank() > 0
        if not is_further:
            threading.Thread(target=obey, args=(Files(task.lock), stop), daemon=True).start()
        attempt = Attempt(task)
        try:
            with nullcontext() if is_further else FileLock(task.lock):
                job.train(task, stop, is_further)
        except Interrupted:
            if is_further:  # another code would make srun kill the process that saves
                return
            if stop.received == getattr(signal, "SIGUSR2", None) and attempt.has_saved:
                queue_again()
            raise


def obey(files: Files, stop: StopSignals) -> None:
    """Waits for the file that stops the job, or for the death of the process that started it."""
    parent = os.getppid()
    while not files.stop.is_file() and os.getppid() == parent:
        time.sleep(LOOKED_S)
    job.end_in_order(stop)


def queue_again() -> None:
    """Asks SLURM to start this job again; SLURM ends what still runs of it."""
    number = os.environ.get("SLURM_JOB_ID")
    if number:
        print("the time limit is near: the job is queued again", flush=True)
        subprocess.run(["scontrol", "requeue", number])


if __name__ == "__main__":
    main()
