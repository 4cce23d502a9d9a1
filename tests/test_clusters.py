"""Sweeps on real clusters: ``pytest -m cluster``. A SLURM, a Ray and a PostgreSQL of this machine.

``test_launchers.py`` has the tests that need none of them.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import optuna
import pytest

from helpers import rows
from services import free_port, running_postgres, running_slurm, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

EPOCHS = 40
SMALL = ["data=digits", "model.hidden_dims=[8]", "callbacks=none", f"trainer.max_epochs={EPOCHS}"]
GRID = ["seed=1,2,3", "model.latent_dim=2,4"]
Variables = Mapping[str, str]


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Variables]:
    pytest.importorskip("submitit", reason="requires submitit")
    with running_slurm(tmp_path_factory.mktemp("slurm")) as variables:
        yield variables


@pytest.fixture(scope="session")
def ray_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Variables]]:
    """The address of a Ray cluster, and the variables with which commands may talk to it."""
    pytest.importorskip("ray", reason="requires ray")
    variables = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    program, port = Path(sys.executable).with_name("ray"), free_port()
    place = tmp_path_factory.mktemp("ray")
    start = ["start", "--head", f"--port={port}", "--num-cpus=3", "--include-dashboard=false"]
    command = [str(program), *start, f"--temp-dir={place}", "--block"]
    with (
        (place / "log").open("w") as log,
        subprocess.Popen(command, env=variables, stdout=log, stderr=log) as process,
    ):
        wait_for(lambda: "Ray runtime started" in (place / "log").read_text(), 90, "Ray")
        yield f"127.0.0.1:{port}", variables
        process.terminate()


@pytest.fixture(scope="session")
def database() -> Iterator[str]:
    pytest.importorskip("psycopg", reason="requires psycopg")
    with running_postgres() as url:
        yield url


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep on this machine, with which the others are compared."""
    place = tmp_path_factory.mktemp("local")
    finish(sweep(place, os.environ))
    return place / "sweep"


def sweep(place: Path, variables: Variables, *words: str) -> list[object]:
    """Starts the sweep; its process and place."""
    command = ["train", "-m", *SMALL, *GRID, "trainer.threads=1", "hydra.sweep.dir=sweep", *words]
    return started(place, variables, *command)


def started(place: Path, variables: Variables, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", f"vae_lightning.{words[0]}", *words[1:]]
    return subprocess.Popen(
        command,
        cwd=place,
        env=variables,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(process: subprocess.Popen[str]) -> str:
    shown, _ = process.communicate(timeout=400)
    assert process.returncode == 0, shown
    return shown


def ask(variables: Variables, *command: str) -> str:
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def epochs(place: Path) -> int:
    return sum(len(rows(path)) for path in place.glob("sweep/*/metrics.csv"))


def logs(place: Path) -> list[str]:
    return [path.read_text() for path in sorted((place / "sweep" / "logs").iterdir())]


def assert_same_tables(one: Path, other: Path) -> None:
    for name in ("sweep.csv", "summary.csv", "table.md"):
        assert (one / name).read_text() == (other / name).read_text()


def assert_every_epoch_once(place: Path) -> None:
    """No job was lost, and no epoch was trained twice."""
    for log in logs(place):
        assert re.findall(r"epoch +(\d+)/", log) == [str(n) for n in range(1, EPOCHS + 1)]


SLURM = ["launcher=slurm", "launcher.time=10", "launcher.save_s=5", "launcher.slots=6"]


class TestSlurm:
    def test_a_requeued_job_continues_and_the_tables_are_those_of_a_local_sweep(
        self, slurm: Variables, local: Path, tmp_path: Path
    ) -> None:
        process = sweep(tmp_path, slurm, *SLURM)
        wait_for(lambda: epochs(tmp_path) > 10, 120, "no job trains")
        running = max(
            (tmp_path / "sweep" / ".locks").glob("*.id"),
            key=lambda path: len(rows(table_of(path)) if table_of(path).is_file() else []),
        )
        number = running.read_text().strip()
        ask(slurm, "scontrol", "requeue", number)
        wait_for(lambda: "PENDING" in state(slurm, number), 60, "not queued again")
        start_now(slurm, number)
        shown = finish(process)
        assert shown.count(": finished, val -ELBO") == 6
        assert_same_tables(tmp_path / "sweep", local)
        assert sum("resume: continues after" in log for log in logs(tmp_path)) == 1
        assert_every_epoch_once(tmp_path)

    def test_a_killed_driver_loses_no_job_and_runs_none_twice(
        self, slurm: Variables, local: Path, tmp_path: Path
    ) -> None:
        process = sweep(tmp_path, slurm, *SLURM)
        wait_for(lambda: epochs(tmp_path) > 10, 120, "no job trains")
        process.kill()
        process.wait()
        before = {path.name: path.read_text() for path in locks(tmp_path, "id")}
        assert len(before) == 6
        shown = finish(started(tmp_path, slurm, "sweep", "resume=sweep"))
        assert shown.count(": finished, val -ELBO") == 6 - already_finished(shown)
        assert_same_tables(tmp_path / "sweep", local)
        assert_every_epoch_once(tmp_path)
        scripts = list((tmp_path / "sweep" / ".slurm").glob("*_submission.sh"))
        assert len(scripts) == 6  # nothing was submitted twice

    def test_preempted_jobs_continue(self, slurm: Variables, local: Path, tmp_path: Path) -> None:
        process = sweep(tmp_path, slurm, *SLURM)
        wait_for(lambda: epochs(tmp_path) > 10, 120, "no job trains")
        ask(
            slurm,
            "sbatch",
            "-p",
            "urgent",
            "-N2",
            "--exclusive",
            "-o/dev/null",
            "--wrap",
            "sleep 1",
        )
        wait_for(lambda: "BeginTime" in ask(slurm, "squeue", "-h", "-o%r"), 60, "not preempted")
        waiting = ask(slurm, "squeue", "-h", "-o%i %r").splitlines()
        start_now(slurm, *(line.split()[0] for line in waiting if "BeginTime" in line))
        finish(process)
        assert any("resume: continues after" in log for log in logs(tmp_path))
        assert_same_tables(tmp_path / "sweep", local)
        assert_every_epoch_once(tmp_path)

    def test_a_job_of_two_machines_stops_and_continues(
        self, slurm: Variables, tmp_path: Path
    ) -> None:
        # the two machines are this one, whose name says nothing to PyTorch
        variables = {**slurm, "MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
        words = [*SMALL, *SLURM, "accelerator=multi_node", "seed=1", "hydra.sweep.dir=sweep"]
        process = started(tmp_path, variables, "train", "-m", *words)
        wait_for(lambda: epochs(tmp_path) > 2, 120, "the job does not train")
        process.send_signal(signal.SIGINT)
        shown, _ = process.communicate(timeout=100)
        assert process.returncode == 130, shown
        (status,) = tmp_path.glob("sweep/*/status.json")
        assert json.loads(status.read_text()) == {"state": "interrupted"}
        finish(started(tmp_path, variables, "sweep", "resume=sweep"))
        assert_every_epoch_once(tmp_path)
        assert "resume: continues after" in logs(tmp_path)[0]

    def test_near_the_time_limit_a_job_saves_and_is_queued_again(
        self, slurm: Variables, tmp_path: Path
    ) -> None:
        words = [*SMALL, *SLURM, "launcher.time=2", "launcher.save_s=30", "seed=1"]
        long = ["trainer.max_epochs=100000", "hydra.sweep.dir=sweep"]
        process = started(tmp_path, slurm, "train", "-m", *words, *long)
        wait_for(lambda: locks(tmp_path, "id"), 60, "not submitted")
        number = locks(tmp_path, "id")[0].read_text().strip()
        wait_for(lambda: state(slurm, number).strip() == "RUNNING", 60, "does not run")
        wait_for(lambda: "PENDING" in state(slurm, number), 150, "not queued again")
        start_now(slurm, number)
        wait_for(lambda: "resume: continues after" in logs(tmp_path)[0], 100, "not continued")
        assert "the time limit is near: the job is queued again" in logs(tmp_path)[0]
        process.send_signal(signal.SIGTERM)
        shown, _ = process.communicate(timeout=60)
        assert process.returncode == 143
        assert "1 job left running" in shown
        process = started(tmp_path, slurm, "sweep", "resume=sweep")
        time.sleep(10)
        process.send_signal(signal.SIGINT)
        shown, _ = process.communicate(timeout=100)
        assert process.returncode == 130, shown
        assert len(list((tmp_path / "sweep" / ".slurm").glob("*_submission.sh"))) == 1

    def test_the_script_of_the_documentation_continues_after_a_time_limit(
        self, slurm: Variables, tmp_path: Path
    ) -> None:
        page = Path(__file__).parents[1] / "docs" / "how_to" / "clusters.md"
        script = page.read_text().partition("```bash\n#!")[2].partition("```")[0]
        for told, small in (
            ("04:00:00", "00:02:00"),
            ("USR1@120", "USR1@60"),
            ("epochs=500", f"epochs=100000 {' '.join(SMALL[:3])}"),
        ):
            assert told in script
            script = script.replace(told, small)
        (tmp_path / "job.sh").write_text(f"#!{script}")
        done = subprocess.run(
            ["sbatch", "--parsable", "job.sh"],
            cwd=tmp_path,
            env=slurm,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        number = done.stdout.strip()
        status = tmp_path / "runs" / number / "status.json"
        wait_for(lambda: "PENDING" not in state(slurm, number), 60, "not started")
        wait_for(lambda: "PENDING" in state(slurm, number), 200, "not queued again")
        assert json.loads(status.read_text()) == {"state": "interrupted"}
        before = len(rows(status.with_name("metrics.csv")))
        start_now(slurm, number)
        table = status.with_name("metrics.csv")
        wait_for(lambda: len(rows(table)) > before > 10, 100, "not continued")
        ask(slurm, "scancel", number)
        assert "resume: continues after" in (status.with_name("train.log")).read_text()


def table_of(file: Path) -> Path:
    """metrics.csv of the job to which a file in .locks belongs."""
    return file.parent.parent / file.name.removesuffix(".id") / "metrics.csv"


def locks(place: Path, kind: str) -> list[Path]:
    return list((place / "sweep" / ".locks").glob(f"*.{kind}"))


def already_finished(shown: str) -> int:
    found = re.search(r"(\d+) finished before", shown)
    return int(found.group(1)) if found else 0


def start_now(variables: Variables, *numbers: str) -> None:
    """Starts jobs that were queued again, for which SLURM waits two minutes."""
    time.sleep(5)  # what still runs of them must end
    for number in numbers:
        ask(variables, "scontrol", "update", f"jobid={number}", "StartTime=now")


def state(variables: Variables, number: str) -> str:
    return ask(variables, "squeue", "-h", "-j", number, "-t", "all", "-o%T")


class TestRay:
    def test_the_tables_are_those_of_a_local_sweep(
        self, ray_address: tuple[str, Variables], local: Path, tmp_path: Path
    ) -> None:
        address, variables = ray_address
        words = ["launcher=ray", f"launcher.address={address}"]
        shown = finish(sweep(tmp_path, variables, *words))
        assert "6 jobs, 3 at a time" in shown
        assert_same_tables(tmp_path / "sweep", local)
        assert_every_epoch_once(tmp_path)

    def test_a_killed_driver_loses_no_job_and_runs_none_twice(
        self, ray_address: tuple[str, Variables], local: Path, tmp_path: Path
    ) -> None:
        address, variables = ray_address
        words = ["launcher=ray", f"launcher.address={address}", "launcher.slots=6"]
        process = sweep(tmp_path, variables, *words)
        wait_for(lambda: epochs(tmp_path) > 10, 120, "no job trains")
        process.kill()
        process.wait()
        refused = started(tmp_path, variables, "sweep", "resume=sweep")
        shown, _ = refused.communicate(timeout=100)
        assert refused.returncode == 2
        assert "launcher.address=" in shown
        finish(started(tmp_path, variables, "sweep", "resume=sweep", f"launcher.address={address}"))
        assert_same_tables(tmp_path / "sweep", local)
        assert_every_epoch_once(tmp_path)
        assert not any("resume: continues" in log for log in logs(tmp_path))

    def test_ctrl_c_saves_all_jobs_which_continue_in_a_ray_of_their_own(
        self, ray_address: tuple[str, Variables], local: Path, tmp_path: Path
    ) -> None:
        address, variables = ray_address
        words = ["launcher=ray", f"launcher.address={address}"]
        process = sweep(tmp_path, variables, *words)
        wait_for(lambda: epochs(tmp_path) > 10, 120, "no job trains")
        process.send_signal(signal.SIGINT)
        shown, _ = process.communicate(timeout=100)
        assert process.returncode == 130, shown
        assert ": interrupted" in shown
        finish(started(tmp_path, variables, "sweep", "resume=sweep", "launcher.address=local"))
        assert_same_tables(tmp_path / "sweep", local)
        assert_every_epoch_once(tmp_path)


class TestPostgres:
    def test_two_drivers_share_the_trials_and_run_none_twice(
        self, database: str, tmp_path: Path
    ) -> None:
        trials = 10
        search = ["search=tpe", "search.study=ours", f"search.trials={trials}"]
        words = [*SMALL, *search, "optimizer.lr=tag(log,interval(1e-4,1e-2))", "launcher.slots=2"]
        folders = [tmp_path / name for name in "ab"]
        processes = [
            started(
                tmp_path,
                os.environ,
                *("train", "-m", *words, f"search.storage={database}", f"hydra.sweep.dir={folder}"),
            )
            for folder in folders
        ]
        for process in processes:
            finish(process)
        tables = [rows(folder / "sweep.csv") for folder in folders]
        assert all(len(table) >= 2 for table in tables)
        assert sum(map(len, tables)) == trials
        assert len({row["folder"] for table in tables for row in table}) == trials
        assert {row["state"] for table in tables for row in table} == {"finished"}
        study = optuna.load_study(study_name="ours", storage=database)
        counted = [trial for trial in study.trials if "repeats" not in trial.user_attrs]
        assert [trial.state.name for trial in counted] == ["COMPLETE"] * trials
        values = sorted(float(row["val/neg_elbo"]) for table in tables for row in table)
        assert sorted(trial.value for trial in counted) == values

    def test_a_database_that_does_not_answer_is_one_line(self, tmp_path: Path) -> None:
        url = f"postgresql+psycopg://me:secret@127.0.0.1:{free_port()}/x"
        words = ["search=tpe", "seed=1,2", f"search.storage={url}", "hydra.sweep.dir=sweep"]
        process = started(tmp_path, os.environ, "train", "-m", *SMALL, *words)
        shown, _ = process.communicate(timeout=100)
        assert process.returncode == 2
        assert shown.startswith("error: search.storage=postgresql+psycopg:...: must be the URL")
        assert "secret" not in shown
        assert len(shown.splitlines()) == 1
        assert not list(tmp_path.iterdir())
