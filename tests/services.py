"""A SLURM of one machine and a PostgreSQL server, for the tests that need real ones."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

PACKAGES = (
    *("slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins"),
    *("libmunge2", "libhwloc15", "liblua5.1-0", "munge"),
)
# two nodes on one machine; jobs of the partition "urgent" take the place of those of "main"
SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PluginDir={plugins}
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool-%n
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd-%n.pid
SlurmctldPort={ports[0]}
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd-%n.log
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,sched_min_interval=100000,bf_interval=1
KillWait=5
ReturnToService=2
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 RealMemory=4000
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 RealMemory=4000
PartitionName=main Nodes=one,two Default=YES MaxTime=60 PriorityTier=1 OverSubscribe=NO
PartitionName=urgent Nodes=one,two MaxTime=60 PriorityTier=9 PreemptMode=OFF
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def unpack_slurm(place: Path) -> Path:
    """Downloads the packages of SLURM and unpacks them into a folder; installs nothing."""
    if os.name != "posix" or os.geteuid() or not shutil.which("apt-get"):
        pytest.skip("a SLURM for tests requires root and Debian's apt-get")
    packages, root = place / "packages", place / "root"
    packages.mkdir()
    done = subprocess.run(
        ["apt-get", "download", *PACKAGES], cwd=packages, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"the packages of SLURM cannot be downloaded: {done.stderr.strip()[-300:]}")
    for package in packages.iterdir():
        subprocess.run(["dpkg", "-x", str(package), str(root)], check=True)
    return root


@contextmanager
def running_slurm(place: Path) -> Iterator[dict[str, str]]:
    """The variables with which commands find a SLURM that runs while the body does."""
    root = unpack_slurm(place)
    libraries = next(root.glob("usr/lib/*/slurm-wlm"))
    host = socket.gethostname().partition(".")[0]
    for name in ("state", "spool-one", "spool-two"):
        (place / name).mkdir()
    conf = place / "slurm.conf"
    ports = [free_port() for _ in range(3)]
    conf.write_text(SLURM_CONF.format(host=host, place=place, plugins=libraries, ports=ports))
    environment = os.environ | {
        "SLURM_CONF": str(conf),
        "PATH": f"{root}/usr/bin:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": f"{libraries.parent}:{libraries}",
    }
    programs = root / "usr" / "sbin"
    stepd = programs / "slurmstepd-wlm"
    commands = [
        [programs / "slurmctld-wlm", "-D", "-c"],
        *([programs / "slurmd-wlm", "-D", "-N", name, "-d", stepd] for name in ("one", "two")),
    ]
    with ExitStack() as stack:
        for command in commands:
            log = stack.enter_context((place / "daemons.log").open("a"))
            process = subprocess.Popen(
                [str(word) for word in command], env=environment, stdout=log, stderr=log
            )
            stack.callback(process.wait)
            stack.callback(process.kill)

        def is_idle() -> bool:
            command = ["sinfo", "-h", "-p", "main", "-o", "%T"]
            shown = subprocess.run(command, env=environment, capture_output=True, text=True)
            return shown.stdout.split() == ["idle"]

        wait_for(is_idle, 30, f"SLURM has not started: {place}")
        yield environment
        subprocess.run(["scancel", "-u", pwd.getpwuid(0).pw_name], env=environment)

        def is_empty() -> bool:
            shown = subprocess.run(["squeue", "-h"], env=environment, capture_output=True)
            return shown.returncode == 0 and not shown.stdout

        wait_for(is_empty, 60, "jobs are left")  # nobody else would end them


@contextmanager
def running_postgres() -> Iterator[str]:
    """The URL of an empty database of a PostgreSQL server that runs while the body does."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin/initdb"), shutil.which("initdb")]
    if not found[0]:
        pytest.skip("PostgreSQL is not installed")
    binaries, port = Path(found[0]).resolve().parent, free_port()
    # not in pytest's folder, which only its user may enter
    with tempfile.TemporaryDirectory() as name:
        data, as_user = Path(name), []
        if os.geteuid() == 0:  # PostgreSQL refuses root
            as_user = ["runuser", "-u", "postgres", "--"]
            shutil.chown(data, "postgres")
        initdb = [*as_user, str(binaries / "initdb"), "-D", name, "-A", "trust", "-U", "postgres"]
        subprocess.run(initdb, check=True, capture_output=True, cwd="/")
        settings = ["-k", name, "-h", "127.0.0.1", "-p", str(port), "-F"]
        command = [*as_user, str(binaries / "postgres"), "-D", name, *settings]
        with subprocess.Popen(command, cwd="/", stderr=subprocess.DEVNULL) as process:
            wait_for(lambda: is_ready(binaries, port), 30, "PostgreSQL has not started")
            yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
            process.terminate()


def is_ready(binaries: Path, port: int) -> bool:
    command = [str(binaries / "pg_isready"), "-h", "127.0.0.1", "-p", str(port)]
    return subprocess.run(command, capture_output=True).returncode == 0
