"""Runs the jobs of a sweep on a Ray cluster.

Each job is a command that an actor starts. The actors are detached, so that they go on without the
driver, and have names, by which a later driver finds them. A Ray that the driver itself has started
ends with it.
"""

import importlib
import logging
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from types import ModuleType

from omegaconf import DictConfig

from vae_lightning.checks.errors import ConfigError, one_line
from vae_lightning.config.environment import RANK_VARIABLES
from vae_lightning.config.optional import require_extra
from vae_lightning.storage.files import write_text
from vae_lightning.sweeps.job import Task
from vae_lightning.sweeps.launchers import cluster
from vae_lightning.sweeps.launchers.launcher import Site
from vae_lightning.sweeps.launchers.slots import Need

NAMESPACE = "vae_lightning"
HERE = (None, "local")  # addresses that start Ray on this machine
# variables that a job has from the driver; it has all others from its machine
PASSED = ("PYTHONPATH", "OMP_NUM_THREADS", "VAE_LIGHTNING_DATA")
CONNECTED_S, ENDED_S = 5.0, 2.0  # within which a cluster and a job must answer


def ray() -> ModuleType:
    """The package, which is imported only if this launcher is chosen, and may not be installed."""
    return importlib.import_module("ray")


class Actor:
    """Holds the resources of a job while its command runs."""

    def __init__(self, command: list[str], folder: str, variables: dict[str, str]) -> None:
        # ranks that started Ray on this machine are not those of the job
        kept = {name: text for name, text in os.environ.items() if name not in RANK_VARIABLES}
        self.process = subprocess.Popen(
            command, cwd=folder, env=kept | variables, start_new_session=True
        )
        # a call by the actor itself, which does not end with the driver
        ray().get_runtime_context().current_actor.wait.remote()

    def wait(self) -> None:
        """Ends the actor with its command."""
        self.process.wait()
        ray().actor.exit_actor()

    def kill(self) -> None:
        """Kills the command and what it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


def site(options: DictConfig, trust: bool, stack: ExitStack) -> Site:
    """A Ray cluster, or a new one on this machine; raises ConfigError if it does not answer."""
    require_extra("launcher=ray", "ray", "ray")
    resources = connect(options.address)
    stack.callback(ray().shutdown)

    def make_room(needs: Sequence[Need]) -> cluster.Queue:
        fitting = (
            min(int(count_fitting(options, need, resources)) for need in needs) if needs else 1
        )
        number = fitting if options.slots == "auto" else options.slots
        return cluster.Queue(max(1, min(number, len(needs))), options.cpus)

    def check(needs: Sequence[Need]) -> None:
        for need in needs:
            if options.address in HERE and count_fitting(options, need, resources) < 1:
                claim = claim_of(options, need)
                raise ConfigError(
                    f"launcher=ray: a job needs {claim['num_cpus']} cores and {claim['num_gpus']:g}"
                    f" GPUs, more than this machine has"
                )

    need_of = partial(cluster.need_on, "ray", options)
    return Site(RayLauncher(options, trust), need_of, make_room, check)


def connect(address: str | None) -> Mapping[str, float]:
    """Connects to a cluster; its resources. Raises ConfigError if it does not answer."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
    try:
        if address not in (*HERE, "auto"):
            host, _, port = address.rpartition(":")
            # Ray itself would wait for minutes
            socket.create_connection((host, int(port)), CONNECTED_S).close()
        ray().init(
            address=address or "local",
            namespace=NAMESPACE,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (OSError, ValueError, RuntimeError) as error:  # ConnectionError is an OSError
        raise ConfigError(
            f"launcher.address={address}: must be local, auto, or HOST:PORT of a Ray cluster that"
            f" answers ({one_line(error)})"
        ) from error
    return ray().cluster_resources()


def claim_of(options: DictConfig, need: Need) -> dict[str, float]:
    """The resources that Ray reserves for a job."""
    cpus = (need.threads or options.cpus) * need.processes
    return {"num_cpus": cpus, "num_gpus": options.gpus * need.processes if need.gpu else 0}


def count_fitting(options: DictConfig, need: Need, resources: Mapping[str, float]) -> float:
    """How many such jobs fit into a cluster."""
    claim = claim_of(options, need)
    shares = [resources.get("CPU", 0) / claim["num_cpus"]]
    if claim["num_gpus"]:
        shares.append(resources.get("GPU", 0) / claim["num_gpus"])
    return min(shares)


class RayLauncher:
    """Starts actors, and finds those that an earlier driver started."""

    wait, keeps = staticmethod(cluster.wait), staticmethod(cluster.keeps)

    def __init__(self, options: DictConfig, trust: bool) -> None:
        self.options, self.trust = options, trust

    def start(self, task: Task, need: Need) -> "RayRunning | None":
        """Starts a job, or finds it if it waits or runs; None while an earlier attempt ends."""
        files = cluster.Files(task.lock)
        if files.is_done:
            return RayRunning(self, task, need)
        if is_alive(cluster.name_of(task)):
            if files.read_code() is not None:
                return None
        else:
            files.stop.unlink(missing_ok=True)
            self.submit(task, need)
        return RayRunning(self, task, need)

    def submit(self, task: Task, need: Need) -> None:
        """Creates the actor of a job; it waits until the cluster has room for it."""
        files, name = cluster.Files(task.lock), cluster.name_of(task)
        files.code.unlink(missing_ok=True)
        write_text(files.id, f"{name}\n")
        variables = {key: os.environ[key] for key in PASSED if key in os.environ}
        create = (
            ray()
            .remote(Actor)
            .options(
                name=name,
                lifetime="detached",
                max_concurrency=2,  # a command can be killed while the actor waits for it
                **claim_of(self.options, need),
            )
        )
        create.remote(cluster.command_of(task, self.trust), os.getcwd(), variables)


def is_alive(name: str) -> bool:
    """Whether a job waits or runs."""
    try:
        ray().get_actor(name)
    except ValueError:
        return False
    return True


class RayRunning:
    """A job that waits or runs."""

    def __init__(self, launcher: RayLauncher, task: Task, need: Need) -> None:
        self.launcher, self.task, self.need = launcher, task, need
        self.files, self.name, self.reason = cluster.Files(task.lock), cluster.name_of(task), ""
        self.attempt = cluster.Attempt(task)

    def exit_code(self) -> int | None:
        """How the job ended; None while it waits or runs, or is started again."""
        code = self.files.read_code()
        if code is not None:
            return code
        if is_alive(self.name) or self.attempt.is_just_gone():
            return None
        if self.attempt.has_saved:  # its machine was lost
            self.launcher.submit(self.task, self.need)
            self.attempt = cluster.Attempt(self.task)
            return None
        self.reason = "Ray has lost the job"
        return 1

    def ask_to_stop(self) -> None:
        """Asks the job to save and end; one that waits ends as soon as it starts."""
        self.files.stop.touch()

    def kill(self) -> None:
        """Kills the job at once."""
        error = ray().exceptions.RayError
        with suppress(ValueError, error):  # it has ended, or waits and cannot answer
            actor = ray().get_actor(self.name)
            with suppress(error):
                ray().get(actor.kill.remote(), timeout=ENDED_S)
            ray().kill(actor)

    def close(self) -> None:
        """Removes what only a running job needs."""
        self.files.remove()
