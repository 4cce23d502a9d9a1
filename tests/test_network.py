"""Commands use no network; the processes of a run are reachable from this machine only."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

FORBID_SOCKETS = """
import runpy, sys
def hook(event, arguments):
    if event.startswith("socket.") and event not in ("socket.__new__", "socket.gethostname"):
        raise RuntimeError(f"{event} {arguments}")
sys.addaudithook(hook)
module, *sys.argv[1:] = sys.argv[1:]
runpy.run_module(f"vae_lightning.{module}", run_name="__main__", alter_sys=True)
"""
SIZES = ("model.latent_dim=2", "model.hidden_dims=[8]", "data.val_size=50")
LISTENS = "0A"  # the state of a socket in /proc/net/tcp
LOOPBACK = ("0100007F", "0" * 24 + "01000000")  # 127.0.0.1 and ::1 there


def test_a_run_and_the_commands_that_read_it_use_no_sockets(
    tiny_root: Path, tmp_path: Path
) -> None:
    variables = os.environ | {"VAE_LIGHTNING_DATA": str(tiny_root)}
    for words in (
        ("train", *SIZES, "trainer.max_epochs=1", "hydra.run.dir=run"),
        ("pictures", "run=run", "kind=samples"),
        ("explore", "run=run", "count=20"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", FORBID_SOCKETS, *words],
            cwd=tmp_path,
            env=variables,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr


def listening(group: int) -> tuple[int, list[str]]:
    """The number of processes of a group, and the addresses on which they listen."""
    processes = [
        path for path in Path("/proc").iterdir() if path.name.isdigit() and group_of(path) == group
    ]
    sockets = set()
    for process in processes:
        for link in (process / "fd").iterdir():
            target = os.readlink(link) if link.is_symlink() else ""
            if target.startswith("socket:["):
                sockets.add(target[len("socket:[") : -1])
    lines = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path("/proc/net", name).read_text().splitlines()[1:]
    ]
    return len(processes), [
        line[1].partition(":")[0] for line in lines if line[3] == LISTENS and line[9] in sockets
    ]


def group_of(process: Path) -> int | None:
    """The group of a process of /proc; None if it has ended."""
    try:
        return os.getpgid(int(process.name))
    except ProcessLookupError:
        return None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_processes_listen_on_loopback_only_and_end_when_all_are_signaled(
    tiny_root: Path, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "vae_lightning.train",
            *SIZES,
            "accelerator=ddp_cpu",
            "trainer.max_epochs=1000",
            "hydra.run.dir=run",
        ],
        cwd=tmp_path,
        env=os.environ | {"VAE_LIGHTNING_DATA": str(tiny_root)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "metrics.csv").is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    count, addresses = listening(process.pid)
    os.killpg(process.pid, signal.SIGTERM)  # as a shell or a scheduler does
    _, errors = process.communicate(timeout=60)
    assert count == 2
    assert addresses
    assert set(addresses) <= set(LOOPBACK)
    assert process.returncode == 143, errors
    assert "To continue: python -m vae_lightning.train resume=" in errors
