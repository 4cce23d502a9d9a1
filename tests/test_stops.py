"""Runs that are stopped or killed at any moment end like runs that were never stopped.

A short form of ``python -m benchmarks.faults``.
"""

import io
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from benchmarks.faults.stops import EXPERIMENT, MODULE, RECORDER, SMALL, Attack, Runs, contents
from benchmarks.fork_server import Fault, ForkServer
from helpers import Command
from vae_lightning.checks.errors import ConfigError, Interrupted
from vae_lightning.storage.files import read_json
from vae_lightning.storage.run_folder import LAST
from vae_lightning.training.checkpoint import check_space
from vae_lightning.training.signals import STOPPING, StopSignals

pytestmark = pytest.mark.slow

SINGLE_STEPS = ("trainer.steps_per_execution=1",)
TERM, KILL = signal.SIGTERM, signal.SIGKILL


@pytest.fixture(scope="module")
def runs(server: ForkServer, tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(server, tiny_root, tmp_path_factory.mktemp("stops"))


@pytest.mark.parametrize(
    "attack",
    [
        Attack("start", (Fault(f"{EXPERIMENT}:build_data", signal.SIGHUP),)),
        Attack("start", (Fault("vae_lightning.storage.run_folder:write_config", KILL),)),
        Attack("start", (Fault("vae_lightning.storage.run_folder:write_config", TERM),)),
        Attack("first epoch", (Fault(f"{MODULE}.training_step", KILL),)),
        Attack("last call of an epoch", (Fault(f"{MODULE}.training_step", signal.SIGINT, 2),)),
        Attack(
            "last step of an epoch", (Fault(f"{MODULE}.training_step", TERM, 25),), SINGLE_STEPS
        ),
        Attack("last step", (Fault(f"{MODULE}.training_step", TERM, 75),), SINGLE_STEPS),
        Attack(
            "last step, within an epoch",
            (Fault(f"{MODULE}.training_step", TERM, 37),),
            ("trainer.max_steps=37", *SINGLE_STEPS),
        ),
        Attack(
            "last call, within an epoch",
            (Fault(f"{MODULE}.training_step", KILL, 4), Fault(f"{MODULE}.training_step", TERM, 6)),
            ("trainer.max_steps=37", "trainer.val_check_interval=10"),
        ),
        Attack("validation", (Fault(f"{MODULE}.validation_step", signal.SIGUSR1, 2),)),
        Attack("pictures", (Fault("vae_lightning.plots.canvas:save_png", signal.SIGUSR2, 3),)),
        Attack("saving", (Fault(f"{RECORDER}:link", KILL, 2, after=True),)),
        Attack("saving", (Fault(f"{RECORDER}:write_csv", KILL, 3),)),
        Attack("test", (Fault(f"{MODULE}.test_step", signal.SIGINT),)),
        Attack("end", (Fault(f"{EXPERIMENT}:files.write_json", KILL),)),
        Attack(
            "three times",
            (
                Fault(f"{MODULE}.training_step", TERM, 1),
                Fault(f"{RECORDER}:Recorder.write_checkpoint", KILL, 1),
                Fault(f"{MODULE}.on_test_epoch_end", signal.SIGHUP),
            ),
        ),
    ],
    ids=lambda attack: f"{attack.phase}-{attack.faults[0].number.name}",
)
def test_a_stopped_run_ends_like_one_that_was_never_stopped(runs: Runs, attack: Attack) -> None:
    assert runs.stop(attack) == ""


def test_a_second_signal_stops_at_once(runs: Runs) -> None:
    fault = Fault(f"{MODULE}.validation_step", signal.SIGINT, times=2)
    done = runs.train(*SMALL, "hydra.run.dir=twice", faults=[fault])
    assert done.returncode == 130
    assert "epoch   1/3" not in done.stderr
    status = json.loads((runs.folder / "twice" / "status.json").read_text())
    assert status == {"state": "interrupted"}
    assert runs.train("resume=twice").returncode == 0


def test_resume_says_where_it_continues_and_ends_a_run_early(runs: Runs) -> None:
    fault = Fault(f"{MODULE}.training_step", TERM, 3)
    runs.train(*SMALL, "hydra.run.dir=early", faults=[fault])
    done = runs.train("+resume=early", "trainer.max_epochs=1")
    assert done.returncode == 0, done.stderr
    assert "resume: no further epoch is trained after 1 epoch\n" in done.stderr
    assert "test " in done.stdout
    more = runs.train("++resume=early", "trainer.max_epochs=3")
    assert "resume: continues after 1 epoch, at step 41\n" in more.stderr
    assert more.returncode == 0, more.stderr


def test_another_experiment_does_not_resume(runs: Runs) -> None:
    assert runs.train(*SMALL, "hydra.run.dir=own").returncode == 0
    done = runs.train("resume=own", "experiment=ppca", "trainer.max_epochs=4")
    assert done.returncode == 2
    assert done.stderr.startswith("error: experiment=ppca: must not change on resume")


def test_ctrl_c_in_a_terminal_stops_a_sweep_and_saves_its_jobs(
    tiny_root: Path, tmp_path: Path
) -> None:
    overrides = [word for word in SMALL if not word.startswith("trainer.max_epochs")]
    command = [sys.executable, "-m", "vae_lightning.train", "-m", *overrides, "launcher.slots=2"]
    command += ["trainer.max_epochs=10000", "seed=1,2,3", "hydra.sweep.dir=sweep"]
    environment = os.environ | {"VAE_LIGHTNING_DATA": str(tiny_root)}
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        while len(list(tmp_path.glob("sweep/*/checkpoints/last.ckpt"))) < 2:
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # a terminal signals all processes of the group
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"sweep resume={tmp_path / 'sweep'}" in stderr
    states = [json.loads(path.read_text()) for path in tmp_path.glob("sweep/*/status.json")]
    assert states == [{"state": "interrupted"}] * 2


def test_a_damaged_last_checkpoint_leaves_a_finished_run_finished(runs: Runs) -> None:
    assert runs.train(*SMALL, "hydra.run.dir=damaged").returncode == 0
    last = runs.folder / "damaged" / "checkpoints" / "last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 255
    last.unlink()  # best.ckpt is the same file
    last.write_bytes(content)
    done = runs.train("resume=damaged", "trainer.max_epochs=4")
    assert (done.returncode, done.stderr) == (
        2,
        f"error: resume={last.parents[1]}: last.ckpt is damaged; checkpoint=best may be intact\n",
    )
    assert json.loads((runs.folder / "damaged" / "status.json").read_text())["state"] == "finished"
    last.unlink()
    again = runs.train("resume=damaged", "trainer.max_epochs=4")
    assert "the run has no last.ckpt, and starts again from its first step" in again.stderr


def test_numbers_that_are_not_finite_are_located(runs: Runs) -> None:
    for overrides in ((), SINGLE_STEPS, ("objective=geco", "seed=1")):
        name = f"hydra.run.dir=diverged{len(overrides)}"
        done = runs.train(*SMALL, "optimizer.lr=1e30", *overrides, name)
        assert done.returncode == 1
        line = done.stderr.splitlines()[-1]
        assert line.startswith(
            "error: recon is not finite at step 1 for 20 of 20 training images ("
        )
        assert re.search(r"; std of q\(z\|x\) is from (inf to inf|nan to nan); ", line)
        assert "Traceback" not in done.stderr
        run = runs.folder / name.removeprefix("hydra.run.dir=")
        assert not (run / "checkpoints").exists()
        assert json.loads((run / "status.json").read_text())["state"] == "failed"


def test_a_divergence_is_not_called_a_collapse(runs: Runs) -> None:
    done = runs.train(*SMALL, "optimizer.lr=1e3", "likelihood=gaussian", "hydra.run.dir=wide")
    assert "warning: the training has diverged: 0 of 3 latent dimensions" in done.stderr
    assert done.stdout.splitlines()[-1].startswith("warning: the training has diverged")


def test_ranks_that_another_program_left_do_not_count(
    train: Command, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under ``srun -n 2``, where each task is a run of its own."""
    for name, value in {
        "RANK": "1",
        "SLURM_PROCID": "1",
        "SLURM_LOCALID": "1",
        "SLURM_NTASKS": "2",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NAME": "train",
    }.items():
        monkeypatch.setenv(name, value)
    command = (*SMALL, "trainer.max_epochs=1", "hydra.run.dir=task")
    done = train(*command, cwd=tmp_path, data=tiny_root, anew=True)
    assert done.returncode == 0, done.stderr
    assert len(contents(tmp_path / "task")["TensorBoard"]) > 5
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    again = train(*command, cwd=tmp_path, data=tiny_root, anew=True)
    assert "is finished: 1 epoch." in again.stdout


def test_a_full_disk_stops_the_run_in_one_line(server: ForkServer, tmp_path: Path) -> None:
    # a limit on the size of files stands for a full disk: the checkpoint exceeds it
    done = server.run(
        "train",
        "data=digits",
        "model.hidden_dims=[64]",
        "trainer.max_epochs=1",
        "hydra.run.dir=run",
        cwd=tmp_path,
        largest_file=400_000,
    )
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if "rror" in line]
    assert errors == [f"error: {errors[0].split()[1]} File too large"]
    assert str(tmp_path / "run") in errors[0]
    assert "Traceback" not in done.stderr
    assert read_json(tmp_path / "run" / "status.json")["state"] == "failed"


def test_a_disk_without_room_for_the_checkpoints_refuses_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = torch.nn.Linear(1000, 1000)
    usage = shutil.disk_usage(tmp_path)
    needed = 9 * 4 * 1_001_000
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed))
    check_space(tmp_path, module)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    with pytest.raises(ConfigError, match="must have 36 MB of free space"):
        check_space(tmp_path, module)
    (tmp_path / LAST).parent.mkdir()
    (tmp_path / LAST).write_bytes(b"x")  # the file that is replaced gives its space back
    check_space(tmp_path, module)


def test_a_signal_while_a_line_is_written_does_not_break_it(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    class Interrupting(io.RawIOBase):
        """Receives a signal while it writes the first line."""

        written = b""

        def writable(self) -> bool:
            return True

        def write(self, line: bytes) -> int:
            if not self.written:
                os.kill(os.getpid(), signal.SIGUSR1)
            self.written += line
            return len(line)

    raw = Interrupting()
    handler = logging.StreamHandler(io.TextIOWrapper(io.BufferedWriter(raw)))
    logger = logging.getLogger("vae_lightning")
    logger.addHandler(handler)
    caplog.set_level(logging.INFO, "vae_lightning")
    try:
        with pytest.raises(Interrupted), StopSignals() as stop, stop.deferred(lambda: None):
            logger.warning("epoch 1")
        for thread in set(threading.enumerate()) - {threading.current_thread()}:
            if not thread.daemon:
                thread.join(5)
    finally:
        logger.removeHandler(handler)
    assert capsys.readouterr().err == ""
    assert sorted(raw.written.decode().splitlines()) == ["epoch 1", STOPPING]
