"""Sweeps: the grammar, names, slots, the driver, and whole sweeps as commands."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from helpers import Command, rows
from vae_lightning.checks.errors import ConfigError, Interrupted
from vae_lightning.config.compose import compose
from vae_lightning.storage.lock import claim
from vae_lightning.sweeps.display import Display, Entry, LiveTable
from vae_lightning.sweeps.driver import Driver, entry_of, reason_of
from vae_lightning.sweeps.grammar import product, read_words
from vae_lightning.sweeps.job import Task
from vae_lightning.sweeps.launchers.slots import Need, Slots, visible_devices
from vae_lightning.sweeps.names import job_name
from vae_lightning.sweeps.plan import (
    Job,
    Plan,
    check_trusted,
    configuration,
    extended,
    read_plan,
    read_typed,
)
from vae_lightning.sweeps.start import list_jobs, resume_sweep, start_sweep
from vae_lightning.sweeps.work import Jobs, Work
from vae_lightning.training.signals import StopSignals

DIGITS = ["data=digits", "model.hidden_dims=[8]", "callbacks=none", "trainer.threads=1"]
ONE = Need(1, 1, gpu=False)


def jobs_of(*typed: str, config_dir: str | None = None) -> list[tuple[str, ...]]:
    words = read_words(typed, config_dir)
    return [(*words.fixed, *swept) for swept in product(words.swept)]


class TestGrammar:
    @pytest.mark.parametrize(
        ("typed", "values"),
        [
            ("seed=1,2", ["1", "2"]),
            ("seed=choice(1,2)", ["1", "2"]),
            ("seed=range(3)", ["0", "1", "2"]),
            ("optimizer.lr=range(0.5,1.5,0.5)", ["0.5", "1.0"]),
            ("model.hidden_dims=[8],[8,4]", ["[8]", "[8,4]"]),
            ("+a={b:1},{b:2}", ["{b:1}", "{b:2}"]),
            ("model=glob(m*)", ["mlp"]),
            ("annealing=glob(*,exclude=c*)", ["linear", "sigmoid"]),
        ],
    )
    def test_all_values_of_a_word(self, typed: str, values: Sequence[str]) -> None:
        key = typed.partition("=")[0]
        assert jobs_of(typed) == [(f"{key}={value}",) for value in values]

    def test_glob_finds_the_files_of_the_user_and_no_private_ones(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "mine.yaml").touch()
        names = [words[0] for words in jobs_of("data=glob(*)", config_dir=str(tmp_path))]
        assert "data=mine" in names
        assert "data=mnist" in names
        assert not any("=_" in name for name in names)

    def test_the_last_key_varies_fastest_and_removed_keys_stay(self) -> None:
        assert jobs_of("~scheduler", "seed=1,2", "model=mlp,conv") == [
            ("~scheduler", f"seed={seed}", f"model={model}")
            for seed in (1, 2)
            for model in ("mlp", "conv")
        ]

    def test_a_value_that_is_given_twice_is_one_job(self) -> None:
        words = read_words(["seed=1,1"])
        assert (words.swept, words.repeated) == ({"seed": ["seed=1"]}, 1)

    def test_of_a_key_that_is_given_twice_the_last_one_counts(self) -> None:
        assert jobs_of("seed=1,2", "seed=3") == [("seed=3",)]

    @pytest.mark.attack("wrong command")
    @pytest.mark.parametrize(
        ("typed", "message"),
        [
            ("seed=range(0)", "seed=range(0): must have at least one value"),
            ("seed=interval(0,1)", "seed=interval(0,1): must be a list, choice, range or glob"),
            ("resume=a,b", "resume: must not be given in a sweep"),
            ("hydra.run.dir=x", "hydra.run.dir: must not be given in a sweep"),
            ("hydra/launcher=joblib", "hydra/launcher=joblib: must not be given"),
            ("hydra.sweep.subdir=x", "hydra.sweep.subdir=x: must not be given"),
            ("launcher.slots=1,2", "launcher.slots=1,2: must have one value"),
            ("launcher=slrum", "launcher=slrum: must be one of local"),
            ("launcher.slots=0", "launcher.slots=0: must be auto or an integer >= 1"),
            ("+launcher.slts=2", "launcher.slts: no such key; did you mean launcher.slots?"),
            ("sweep.on_error=ignore", "sweep.on_error=ignore: must be continue or stop"),
            ("seed=1,,2", "seed=1,,2"),
        ],
    )
    def test_a_wrong_word_is_refused_by_name(self, typed: str, message: str) -> None:
        with pytest.raises(ConfigError) as raised:
            read_typed([typed], None)
        assert message in str(raised.value)


class TestNames:
    def test_a_name_says_what_is_swept_in_the_order_typed(self) -> None:
        name = job_name(["model.latent_dim=16", "objective.beta=0.5"])
        assert name.startswith("latent_dim-16__beta-0.5__")

    @pytest.mark.parametrize("word", ["model.hidden_dims=[8,4]", "+a.b='x y$(rm)'", "c={d:1}"])
    def test_a_name_has_no_character_that_needs_quotes(self, word: str) -> None:
        assert set(job_name([word])) <= set(
            "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"
        )

    def test_long_values_are_shortened_and_told_apart(self) -> None:
        long = ["a" * 300, "a" * 299 + "b"]
        names = {job_name([f"data.root={value}"]) for value in long}
        assert len(names) == 2
        assert max(map(len, names)) < 100


class TestPlan:
    def plan(self, *typed: str) -> Plan:
        return read_typed([*DIGITS, *typed], None)[0]

    def test_is_the_same_after_writing_and_reading(self, tmp_path: Path) -> None:
        plan = self.plan("seed=1,2", "model.latent_dim=range(2,4)")
        plan.write(tmp_path)
        assert read_plan(tmp_path, "resume") == plan
        assert [job.swept for job in plan.jobs] == [
            (f"seed={seed}", f"model.latent_dim={dim}") for seed in (1, 2) for dim in (2, 3)
        ]

    def test_values_may_be_added_and_names_stay(self, tmp_path: Path) -> None:
        before, now = self.plan("seed=1,2"), self.plan("seed=2,3")
        both = extended(before, now, tmp_path)
        assert [job.swept for job in both.jobs] == [("seed=1",), ("seed=2",), ("seed=3",)]
        assert [job.name for job in both.jobs][:2] == [job.name for job in before.jobs]
        assert extended(both, before, tmp_path) == both

    @pytest.mark.attack("wrong command")
    @pytest.mark.parametrize(
        ("now", "message"),
        [
            (["seed=1,2", "model.latent_dim=2,4"], "must be swept over seed as before, not seed, "),
            (["seed=1,2", "optimizer.lr=1e-4"], "optimizer.lr was 0.001, is 0.0001"),
            (["seed=1,2", "optimizer=adamw"], "optimizer._target_ was torch.optim.Adam, is"),
        ],
    )
    def test_another_sweep_is_refused_with_the_difference(
        self, now: Sequence[str], message: str, tmp_path: Path
    ) -> None:
        with pytest.raises(ConfigError) as raised:
            extended(self.plan("seed=1,2"), self.plan(*now), tmp_path)
        assert message in str(raised.value)

    def test_a_file_may_sweep_too_and_the_command_line_wins(self, tmp_path: Path) -> None:
        (tmp_path / "experiment").mkdir()
        (tmp_path / "experiment" / "grid.yaml").write_text(
            "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n"
            "      model.latent_dim: 2,4\n      seed: range(3)\n"
        )
        plan, _, _ = read_typed(["experiment=grid", "seed=7"], str(tmp_path))
        assert [job.swept for job in plan.jobs] == [
            ("model.latent_dim=2",),
            ("model.latent_dim=4",),
        ]
        assert configuration(plan.jobs[0], plan).seed == 7

    @pytest.mark.attack("wrong command")
    @pytest.mark.parametrize(
        ("typed", "message"),
        [
            (["model=conv,mlp", "model.widths=[8,8]"], "model=mlp: model.widths: no such key"),
            (["seed=1,2", "data.batch_size=0"], "data.batch_size=0: must be an integer >= 1"),
            (["seed=1,2", "model.latnt_dim=3"], "model.latnt_dim: no such key; did you mean"),
            (["model.latent_dim=2,0"], "model.latent_dim=0: must be an integer >= 1"),
            (
                ["accelerator=auto,multi_node"],
                "accelerator=multi_node: must not be part of a sweep",
            ),
        ],
    )
    def test_a_wrong_job_is_named(self, typed: Sequence[str], message: str) -> None:
        with pytest.raises(ConfigError) as raised:
            list_jobs(["data=digits", *typed], None)
        assert str(raised.value).startswith(message)

    def test_an_option_may_belong_to_the_swept_groups_only(self) -> None:
        lines = list_jobs(["data=digits", "model=conv,resnet", "model.widths=[8,8]"], None)
        assert [line.split()[0].rpartition("__")[0] for line in lines.splitlines()] == [
            "model-conv",
            "model-resnet",
        ]

    def test_a_sweep_within_a_sweep_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "experiment").mkdir()
        (tmp_path / "experiment" / "grid.yaml").write_text(
            "# @package _global_\nhydra:\n  mode: MULTIRUN\n"
        )
        plan, _, _ = read_typed(["experiment=grid,null"], str(tmp_path))
        with pytest.raises(ConfigError, match="experiment=grid: must not be a sweep itself"):
            configuration(plan.jobs[0], plan)

    @pytest.mark.attack("damaged file")
    @pytest.mark.parametrize("text", ["", "a", "fixed: 1", "{", "fixed: [1]\ngrids: []", "- x"])
    def test_a_damaged_file_is_one_line(self, text: str, tmp_path: Path) -> None:
        (tmp_path / "sweep.yaml").write_text(text)
        with pytest.raises(ConfigError, match=r"sweep.yaml is damaged"):
            read_plan(tmp_path, "resume")

    @pytest.mark.attack("trust")
    def test_a_stored_sweep_reads_no_variable_of_this_machine(self) -> None:
        plan = self.plan("seed=1,2", "+x=${oc.env:HOME}")
        with pytest.raises(ConfigError, match="set trust=true if the sweep is yours"):
            check_trusted(plan, "resume=DIR")


class TestSlots:
    def test_no_core_is_claimed_twice(self) -> None:
        slots = Slots([Need(1, 2, gpu=False)] * 5, 5, [], None, 1)
        assert slots.number == 2
        seats = [slots.take(Need(1, 2, gpu=False)) for _ in range(3)]
        assert [seat.threads if seat else None for seat in seats] == [2, 2, None]
        assert seats[0]
        slots.give_back(seats[0])
        assert slots.take(Need(1, 2, gpu=False))

    def test_free_threads_are_divided(self) -> None:
        slots = Slots([Need(1, None, gpu=False)] * 9, 8, [], 2, 1)
        assert [slots.take(Need(1, None, gpu=False)).threads for _ in range(2)] == [4, 4]

    def test_few_jobs_have_all_cores(self) -> None:
        slots = Slots([Need(1, None, gpu=False)] * 2, 8, [], None, 1)
        assert slots.take(Need(1, None, gpu=False)).threads == 4

    def test_a_job_that_needs_more_than_there_is_runs_alone(self) -> None:
        slots = Slots([Need(1, 16, gpu=False), ONE], 2, [], None, 1)
        assert slots.take(Need(1, 16, gpu=False))
        assert slots.take(ONE) is None

    def test_processes_of_a_job_have_a_core_each(self) -> None:
        need = Need(3, None, gpu=False)
        slots = Slots([need] * 4, 6, [], None, 1)
        assert [slots.take(need).threads for _ in range(2)] == [1, 1]
        assert slots.take(need) is None

    def test_jobs_are_spread_over_the_devices(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-7")
        devices, need = visible_devices(), Need(1, None, gpu=True)
        slots = Slots([need] * 9, 16, devices, None, 2)
        seats = [slots.take(need) for _ in range(5)]
        assert [seat.devices[0] if seat else None for seat in seats] == [
            "3",
            "GPU-7",
            "3",
            "GPU-7",
            None,
        ]

    def test_a_job_of_several_processes_has_its_devices_alone(self) -> None:
        single, pair = Need(1, None, gpu=True), Need(2, None, gpu=True)
        slots = Slots([single, pair, pair], 16, ["0", "1", "2"], None, 2)
        first, second = slots.take(single), slots.take(pair)
        assert first
        assert second
        assert set(first.devices).isdisjoint(second.devices)
        assert slots.take(pair) is None


class FakeRunning:
    """A job that ends when the test says so."""

    reason = ""

    def __init__(self) -> None:
        self.code: int | None = None
        self.asked = self.killed = False

    def exit_code(self) -> int | None:
        return self.code

    def ask_to_stop(self) -> None:
        self.asked, self.code = True, 143

    def kill(self) -> None:
        self.killed, self.code = True, -9

    def close(self) -> None:
        assert self.code is not None


class FakeLauncher:
    """Starts jobs that end with given codes, the first one started first."""

    def __init__(self, codes: Sequence[int]) -> None:
        self.codes = list(codes)
        self.tasks: list[Task] = []
        self.running: list[FakeRunning] = []
        self.most = 0

    def start(self, task: Task, _: Need) -> FakeRunning:
        self.tasks.append(task)
        self.running.append(FakeRunning())
        return self.running[-1]

    def keeps(self, _: int) -> bool:
        return False

    def wait(self, active: Sequence[FakeRunning], _: float) -> None:
        self.most = max(self.most, len(active))
        if active and active[0].code is None:
            active[0].code = self.codes.pop(0)


def driver(folder: Path, launcher: FakeLauncher, number: int, *, stops: bool = False) -> Driver:
    jobs = [Job(f"j{n}", (f"seed={n}",), (f"seed={n}",)) for n in range(number)]
    works = [
        Work(
            job, Task(folder / job.name, (), b"", folder / f"{job.name}.log", folder, False), ONE, 3
        )
        for job in jobs
    ]
    display = Display([entry_of(work) for work in works])
    return Driver(Jobs(works), Slots([ONE] * number, 2, [], None, 1), launcher, display, stops)


class TestDriver:
    def test_runs_all_jobs_two_at_a_time(self, tmp_path: Path) -> None:
        launcher = FakeLauncher([0] * 5)
        driver(tmp_path, launcher, 5).run(StopSignals())
        assert [task.folder.name for task in launcher.tasks] == [f"j{n}" for n in range(5)]
        assert launcher.most == 2

    def test_a_failure_is_shown_at_once_with_the_end_of_the_log(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        launcher = FakeLauncher([1, 0, -9])
        work = driver(tmp_path, launcher, 3)
        original = launcher.start

        def start(task: Task, need: Need) -> FakeRunning:
            task.log.write_text("epoch 1\nerror: no\n")
            return original(task, need)

        launcher.start = start
        work.run(StopSignals())
        shown = capsys.readouterr().out
        assert "seed=0: failed: no\n  epoch 1\n" in shown
        assert "seed=2: failed: killed by SIGKILL" in shown
        status = json.loads((tmp_path / "j0" / "status.json").read_text())
        assert status == {"state": "failed", "reason": "no"}

    def test_may_stop_after_a_failure(self, tmp_path: Path) -> None:
        launcher = FakeLauncher([1, 0])
        driver(tmp_path, launcher, 5, stops=True).run(StopSignals())
        assert len(launcher.tasks) == 2
        assert launcher.running[1].asked

    def test_after_a_signal_the_running_jobs_save_and_no_other_starts(self, tmp_path: Path) -> None:
        stop, launcher = StopSignals(), FakeLauncher([0])
        work = driver(tmp_path, launcher, 5)
        original = launcher.wait

        def wait(active: Sequence[FakeRunning], seconds: float) -> None:
            if stop.received is None:
                original(active, seconds)
                stop.received = signal.SIGINT

        launcher.wait = wait
        with pytest.raises(Interrupted):
            work.run(stop)
        assert len(launcher.tasks) <= 3
        assert all(each.asked for each in launcher.running[1:])

    def test_the_reason_is_that_of_the_last_attempt(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        log.write_text("error: old\n")
        start = log.stat().st_size
        assert reason_of(log, start, 3) == "the process ended with exit code 3"
        log.write_text("error: old\nerror: new\n")
        assert reason_of(log, start, 2) == "new"


class TestDisplay:
    def entries(self, number: int, folder: Path) -> list[Entry]:
        return [
            Entry(Job(f"j{n}", (f"model.latent_dim={n}",), ()), folder / f"j{n}", 4)
            for n in range(number)
        ]

    def test_the_live_table_shows_the_running_jobs_first(self, tmp_path: Path) -> None:
        entries = self.entries(200, tmp_path)
        for entry in entries[:150]:
            entry.state = "finished"
        entries[150].state, entries[151].state = "running", "failed"
        (tmp_path / "j150").mkdir()
        (tmp_path / "j150" / "metrics.csv").write_text(
            "epoch,train/recon,val/recon,val/kl,val/neg_elbo,seconds\n3,21,20,5.5,25.5,30\n"
        )
        entries[150].read()
        console = Console(file=io.StringIO(), width=80, height=24)
        console.print(LiveTable(entries).table(14))
        lines = console.file.getvalue().splitlines()
        assert lines[1].split() == [
            "model.latent_dim=150", "running", "3/4", "20.00", "5.50", "25.50", "30", "s",
        ]  # fmt: skip
        assert "failed" in lines[2]
        assert len(lines) <= 24
        text = " ".join(" ".join(lines).split())
        assert "1 running, 1 failed, 150 finished, 48 waiting; 186 not shown" in text

    def test_one_line_per_event(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (entry,) = self.entries(1, tmp_path)
        display = Display([entry])
        display.started(entry)
        display.ended(entry.job, "finished", "", tmp_path / "log")
        shown = capsys.readouterr().out.splitlines()
        assert shown[0] == "[0/1] model.latent_dim=0: running"
        assert shown[1].startswith("[1/1] model.latent_dim=0: finished, ")


def sweep_command(*overrides: str) -> list[str]:
    return [sys.executable, "-m", "vae_lightning.train", "-m", *DIGITS, *overrides]


def libraries(pid: int) -> tuple[bool, float]:
    """Whether a process has loaded PyTorch, and its memory in MB."""
    folder = Path("/proc", str(pid))
    kilobytes = next(
        line.split()[1] for line in (folder / "status").read_text().splitlines() if "VmRSS" in line
    )
    return "libtorch" in (folder / "maps").read_text(), int(kilobytes) / 1000


@pytest.mark.slow
def test_a_killed_driver_loses_no_job_and_trains_none_twice(tmp_path: Path) -> None:
    grid = ["seed=1,2", "model.latent_dim=2,4", "trainer.max_epochs=30", "launcher.slots=2"]
    done = subprocess.run(
        sweep_command(*grid, "hydra.sweep.dir=whole"), cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "data: digits" in done.stdout
    assert done.stdout.count(": finished, val -ELBO") == 4
    for kills in range(2):
        command = sweep_command(*grid, "hydra.sweep.dir=cut")
        with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
            kill_when(process, tmp_path / "cut", kills)
        assert process.returncode == -signal.SIGKILL
    last = subprocess.run(
        [sys.executable, "-m", "vae_lightning.sweep", "resume=cut", "launcher.slots=2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert last.returncode == 0, last.stderr
    for name in ("sweep.csv", "summary.csv", "table.md"):
        assert (tmp_path / "cut" / name).read_text() == (tmp_path / "whole" / name).read_text()
    table = rows(tmp_path / "cut" / "sweep.csv")
    assert (tmp_path / "cut" / "best").resolve().name == table[0]["folder"]
    logs = "".join(path.read_text() for path in (tmp_path / "cut" / "logs").iterdir())
    assert logs.count("epoch  30/30") == 4
    assert "resume: continues after" in logs


def kill_when(process: subprocess.Popen[bytes], sweep: Path, number: int) -> None:
    """Kills the driver when a job has trained a little, and later each time."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, "the sweep ended too early"
        lengths = [len(rows(path)) for path in sweep.glob("*/metrics.csv")]
        if sum(lengths) > 3 + 25 * number:
            break
        time.sleep(0.02)
    has_torch, megabytes = libraries(process.pid)
    process.kill()
    assert not has_torch
    assert megabytes < 300


@pytest.mark.slow
def test_jobs_stop_within_seconds_of_the_death_of_the_driver(tmp_path: Path) -> None:
    command = sweep_command("seed=1", "trainer.max_epochs=100000", "hydra.sweep.dir=sweep")
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        while not list(tmp_path.glob("sweep/*/checkpoints/last.ckpt")):
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
    status = next(tmp_path.glob("sweep/*/status.json"))
    deadline = time.monotonic() + 5
    while json.loads(status.read_text())["state"] != "interrupted":
        assert time.monotonic() < deadline, "the job still runs"
        time.sleep(0.05)


@pytest.mark.attack("wrong command, as a process")
def test_two_drivers_do_not_share_a_folder(tmp_path: Path) -> None:
    plan, _, _ = read_typed([*DIGITS, "seed=1,2"], None)
    plan.write(tmp_path)
    with (
        claim(tmp_path),
        pytest.raises(ConfigError, match=r"hydra.sweep.dir=.* must not be running"),
    ):
        start_sweep([*DIGITS, "seed=1,2", f"hydra.sweep.dir={tmp_path}"], None)
    assert {path.name for path in tmp_path.iterdir()} == {"sweep.yaml", ".lock"}


@pytest.mark.attack("link")
def test_a_link_out_of_a_stored_sweep_is_refused(tmp_path: Path) -> None:
    plan, _, _ = read_typed([*DIGITS, "seed=1,2"], None)
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    plan.write(sweep)
    (sweep / "logs").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="must hold no link out of the folder"):
        resume_sweep(compose("sweep", [f"resume={sweep}"]))


@pytest.mark.slow
def test_a_data_set_that_is_missing_is_replaced_once_for_all_jobs(
    train: Command, tmp_path: Path
) -> None:
    small = ["model.hidden_dims=[8]", "callbacks=none", "trainer.max_epochs=1", "seed=1,2"]
    nowhere = ["data.root=nowhere", "data.mirrors=[]", "hydra.sweep.dir=sweep"]
    result = train("-m", *small, *nowhere, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "data: digits instead of mnist, whose files were not found" in result.stdout
    assert {row["data"] for row in rows(tmp_path / "sweep" / "sweep.csv")} == {"digits (not mnist)"}
    refused = train("-m", *small, *nowhere[:2], "data.fallback=null", cwd=tmp_path)
    assert refused.returncode == 2
    assert "must contain the files of mnist" in refused.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep"]


@pytest.mark.slow
def test_a_job_of_several_processes_runs_stops_and_continues(tmp_path: Path) -> None:
    many = ["accelerator=ddp_cpu", "trainer.max_epochs=400", "seed=1", "hydra.sweep.dir=sweep"]
    with subprocess.Popen(
        sweep_command(*many), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        while not list(tmp_path.glob("sweep/*/checkpoints/last.ckpt")):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"vae_lightning.sweep resume=" in stderr
    job = next(tmp_path.glob("sweep/*/status.json"))
    assert json.loads(job.read_text())["state"] == "interrupted"
    before = len(rows(job.parent / "metrics.csv"))
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    resume = [sys.executable, "-m", "vae_lightning.sweep", "resume=sweep"]
    with subprocess.Popen(
        resume, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL
    ) as process:
        while len(rows(job.parent / "metrics.csv")) <= before:
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
        assert process.wait(60) == 143
