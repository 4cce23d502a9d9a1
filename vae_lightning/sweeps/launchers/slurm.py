"""Submits the jobs of a sweep to SLURM; submitit writes the scripts.

A job that is preempted or reaches its time limit is queued again, by SLURM, by itself or here, and
continues from its checkpoint.
"""

import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from vae_lightning.checks.errors import ConfigError, one_line
from vae_lightning.config.optional import require_extra
from vae_lightning.storage.files import write_text
from vae_lightning.sweeps.job import Task
from vae_lightning.sweeps.launchers import cluster
from vae_lightning.sweeps.launchers.launcher import Site
from vae_lightning.sweeps.launchers.slots import Need

if TYPE_CHECKING:
    from submitit import SlurmExecutor

PROGRAMS = ("sbatch", "srun", "squeue", "scancel", "scontrol")
SCRIPTS = ".slurm"  # in a sweep folder: the scripts, and what SLURM itself says about each job
POLLED_S, HURRIED_S = 15.0, 1.0  # between two calls of squeue, which burdens the whole cluster
REFUSED_S = 30.0  # before a job is submitted again that SLURM has refused
# states in which a job has ended; in all others, such as REQUEUED, it waits or runs
CONTINUED = {"PREEMPTED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL"}  # not by its own fault
ENDED = CONTINUED | {"CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "OUT_OF_MEMORY", "REVOKED"}
ENDING = {"RUNNING", "COMPLETING"}  # states of a job that has written its exit code
GONE = "no longer known to SLURM"


def site(options: DictConfig, trust: bool) -> Site:
    """A SLURM cluster; raises ConfigError if this machine does not submit jobs to one."""
    require_extra("launcher=slurm", "slurm", "submitit")
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        raise ConfigError(
            "launcher=slurm: must be started on a machine that submits jobs to SLURM"
            f" (it has no {missing[0]})"
        )
    launcher = SlurmLauncher(options, trust)
    need_of = partial(cluster.need_on, "slurm", options)

    def make_room(_: Sequence[Need]) -> cluster.Queue:
        return cluster.Queue(options.slots, options.cpus)

    return Site(launcher, need_of, make_room, launcher.check)


class States:
    """What squeue says about the jobs of this user, asked again after some seconds."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[str, str]] | None = None  # id -> state and name
        self.read_at = float("-inf")

    def read(self, after_s: float) -> None:
        """Asks again if the last answer is older than that; keeps it if there is no answer."""
        if time.monotonic() < self.read_at + after_s:
            return
        began = time.monotonic()
        command = ["squeue", "--me", "--noheader", "--states=all", "--format=%i|%T|%j"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            lines = [line.split("|", 2) for line in done.stdout.splitlines()]
            self.known = {number: (state, name) for number, state, name in lines}
            self.read_at = began

    def of(self, number: str) -> str:
        """The state of a job."""
        assert self.known is not None
        return self.known.get(number, (GONE, ""))[0]

    def is_alive(self, number: str) -> bool:
        """Whether a job waits or runs."""
        return self.of(number) not in (*ENDED, GONE)

    def named(self, name: str) -> str | None:
        """The job of this name that waits or runs, if there is one."""
        found = [number for number, (_, each) in (self.known or {}).items() if each == name]
        return next(filter(self.is_alive, found), None)


class SlurmLauncher:
    """Submits jobs, and finds those that were submitted by an earlier driver."""

    wait, keeps = staticmethod(cluster.wait), staticmethod(cluster.keeps)

    def __init__(self, options: DictConfig, trust: bool) -> None:
        self.options, self.trust = options, trust
        self.states, self.submitted = States(), 0
        self.refused_until = 0.0

    def start(self, task: Task, need: Need) -> "SlurmRunning | None":
        """Submits a job unless it waits or runs.

        None if SLURM does not answer or refuses it, and while an earlier attempt ends.
        Raises ConfigError if SLURM refuses the first job.
        """
        if time.monotonic() < self.refused_until:
            return None
        self.states.read(POLLED_S)
        if self.states.known is None:
            return None
        files = cluster.Files(task.lock)
        stored = files.id.read_text().strip() if files.id.is_file() else ""
        # the driver may have died before it stored the id
        number = (
            stored if self.states.is_alive(stored) else self.states.named(cluster.name_of(task))
        )
        if files.is_done:
            return SlurmRunning(self, task, need, stored)
        if number and files.read_code() is not None and self.states.of(number) in ENDING:
            self.states.read(HURRIED_S)
            return None
        if number is None:
            files.stop.unlink(missing_ok=True)
            number = self.submit(task, need)
        return SlurmRunning(self, task, need, number) if number else None

    def submit(self, task: Task, need: Need) -> str | None:
        """Submits a job and stores its id; None if SLURM refuses it at the moment."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        files, folder = cluster.Files(task.lock), task.folder.parent / SCRIPTS
        folder.mkdir(exist_ok=True)
        files.code.unlink(missing_ok=True)
        executor = self.executor(folder, need, cluster.name_of(task))
        try:
            job = executor._submit_command(shlex.join(cluster.command_of(task, self.trust)))
        except (FailedJobError, FailedSubmissionError) as error:
            if not self.submitted:
                raise ConfigError(f"launcher=slurm: sbatch says: {one_line(error)}") from error
            self.refused_until = time.monotonic() + REFUSED_S  # too many jobs of this user
            return None
        finally:
            for link in folder.glob(".submission_file_*"):  # an absolute one, of submitit
                link.unlink()
        self.submitted += 1
        write_text(files.id, f"{job.job_id}\n")
        return str(job.job_id)

    def executor(self, folder: Path, need: Need, name: str) -> "SlurmExecutor":
        """Submitit's executor with what a job needs."""
        from submitit import SlurmExecutor

        options = self.options
        is_split = need.nodes > 1  # then srun starts all processes, otherwise the job its own
        cpus = (need.threads or options.cpus) * (1 if is_split else need.processes)
        gpus = options.gpus * need.processes if need.gpu else 0
        chosen = {
            "partition": options.partition,
            "account": options.account,
            "mem": options.memory,
            "gpus_per_node": gpus or None,
        }
        executor = SlurmExecutor(folder)
        executor.update_parameters(
            job_name=name,
            time=options.time,
            nodes=need.nodes,
            ntasks_per_node=need.processes if is_split else 1,
            cpus_per_task=cpus,
            signal_delay_s=options.save_s,
            stderr_to_stdout=True,
            # SLURM 22.05 and later do not pass the cores of the job on to srun
            srun_args=[f"--cpus-per-task={cpus}", "--kill-on-bad-exit=1"],
            additional_parameters={"requeue": True, **(options.sbatch or {})},
            **{key: value for key, value in chosen.items() if value is not None},
        )
        return executor

    def check(self, needs: Sequence[Need]) -> None:
        """Raises ConfigError if SLURM would refuse one of these jobs; submits none."""
        for need in dict.fromkeys(needs):
            executor = self.executor(Path(SCRIPTS), need, "test")
            text = executor._make_submission_file_text("true", "")
            done = subprocess.run(
                ["sbatch", "--test-only"], input=text, capture_output=True, text=True
            )
            if done.returncode:
                lines = [one_line(line) for line in done.stderr.splitlines()]
                raise ConfigError(f"launcher=slurm: sbatch says: {'; '.join(lines)}")


class SlurmRunning:
    """A job that waits or runs."""

    def __init__(self, launcher: SlurmLauncher, task: Task, need: Need, number: str) -> None:
        self.launcher, self.task, self.need = launcher, task, need
        self.files, self.reason = cluster.Files(task.lock), ""
        self.is_asked = False
        self.begin(number)

    def begin(self, number: str) -> None:
        """Watches a job that was submitted just now, or earlier."""
        self.number, self.attempt = number, cluster.Attempt(self.task)
        self.began = time.monotonic()

    def exit_code(self) -> int | None:
        """How the job ended; None while it waits or runs, or is submitted again."""
        code, states = self.files.read_code(), self.launcher.states
        if code not in (None, 130, 143):
            return code
        states.read(POLLED_S if code is None else HURRIED_S)
        if states.read_at < self.began or states.is_alive(self.number):
            return None
        state = states.of(self.number)
        if self.is_asked:
            return code or 143
        if code is None and self.attempt.is_just_gone():
            return None
        if state in CONTINUED and self.attempt.has_saved:
            number = self.launcher.submit(self.task, self.need)
            if number:
                self.begin(number)
            return None
        self.reason = f"SLURM job {self.number}: {state}"
        return 1 if code is None else code

    def ask_to_stop(self) -> None:
        """Takes the job out of the queue, or asks it to save and end."""
        self.is_asked = True
        self.files.stop.touch()
        self.cancel("--state=PENDING")

    def kill(self) -> None:
        """Kills the job at once."""
        self.cancel("--full", "--signal=KILL")
        self.cancel()

    def cancel(self, *words: str) -> None:
        """Calls scancel for the job; it may have ended."""
        subprocess.run(["scancel", "--quiet", *words, self.number], capture_output=True)

    def close(self) -> None:
        """Removes what only a running job needs."""
        self.files.remove()
