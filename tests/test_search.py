"""Searches: what they draw from, the study, pruning, and a whole search as a command."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from helpers import Command, rows
from test_sweeps import DIGITS, ONE, FakeRunning, libraries
from vae_lightning.checks.errors import ConfigError
from vae_lightning.sweeps.display import Display
from vae_lightning.sweeps.domains import Domain
from vae_lightning.sweeps.driver import Driver
from vae_lightning.sweeps.grammar import read_words
from vae_lightning.sweeps.job import Task
from vae_lightning.sweeps.launchers.slots import Need, Slots
from vae_lightning.sweeps.plan import Job, Plan, extended, read_plan, read_typed
from vae_lightning.sweeps.results import best_of, collect
from vae_lightning.sweeps.search import Search
from vae_lightning.sweeps.search_plan import SearchPlan
from vae_lightning.sweeps.start import list_jobs
from vae_lightning.sweeps.study import STUDY, check_shared, connect, distributions_of, make_sampler
from vae_lightning.sweeps.tables import terminal_table
from vae_lightning.sweeps.work import Work
from vae_lightning.training.signals import StopSignals

SPACE = ["model.latent_dim=range(1,9)", "optimizer.lr=tag(log,interval(1e-4,1e-2))"]
FOUR = ["model.latent_dim=1,3", "optimizer.lr=1e-3,2e-3"]
EPOCHS = 4


def domain(word: str) -> Domain:
    (found,) = read_words([word]).domains.values()
    return found


class TestSpace:
    @pytest.mark.parametrize(
        ("word", "distribution"),
        [
            ("a=interval(0.1,1)", optuna.distributions.FloatDistribution(0.1, 1)),
            ("a=int(interval(1,5))", optuna.distributions.IntDistribution(1, 5)),
            ("a=range(2,9,3)", optuna.distributions.IntDistribution(2, 8, step=3)),
            ("a=range(5,1,-1)", optuna.distributions.IntDistribution(2, 5)),
            ("a=tag(log,range(1,65))", optuna.distributions.IntDistribution(1, 64, log=True)),
            ("a=range(0.5,2,0.5)", optuna.distributions.FloatDistribution(0.5, 1.5, step=0.5)),
            (
                "a=tag(log,interval(1e-4,1e-2))",
                optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True),
            ),
            ("a=1,x", optuna.distributions.CategoricalDistribution(["a=1", "a=x"])),
            (
                "a=choice([8],[8,4])",
                optuna.distributions.CategoricalDistribution(["a=[8]", "a=[8,4]"]),
            ),
        ],
    )
    def test_a_word_is_a_distribution(
        self, word: str, distribution: optuna.distributions.BaseDistribution
    ) -> None:
        assert distributions_of({"a": domain(word)}) == {"a": distribution}

    def test_drawn_numbers_are_rounded_but_stay_in_the_interval(self) -> None:
        assert domain("a=interval(0,1)").word(0.123456789) == "a=0.12346"
        assert domain("a=interval(0,0.1234567)").word(0.1234567) == "a=0.1234567"
        assert domain("a=range(2,9)").word(8) == "a=8"
        assert domain("+a=x,y").word("+a=y") == "+a=y"

    @pytest.mark.attack("damaged file")
    @pytest.mark.parametrize("value", ["a=3", "b=1", 9, "${oc.env:HOME}", None])
    @pytest.mark.parametrize("word", ["a=1,2", "a=interval(0,5)", "a=range(2,5)"])
    def test_a_value_of_a_damaged_study_is_refused(self, word: str, value: object) -> None:
        with pytest.raises(ConfigError, match="must not have the value"):
            domain(word).word(value)

    @pytest.mark.attack("wrong command")
    @pytest.mark.parametrize(
        ("typed", "message"),
        [
            ("optimizer.lr=interval(0,1)", "requires search=random, tpe, gp or qmc"),
            ("search=tpe", "search=tpe: requires keys to search"),
            ("search=tpe search.trials=0 seed=1,2", "search.trials=0: must be an integer >= 1"),
            ("search=tpe search.pruner=x seed=1,2", "search.pruner=x: must be one of none, median"),
            ("search=tpe search.metric=val/x seed=1,2", "search.metric=val/x: must be one of val/"),
            ("search=tpe search.metric=test/kl seed=1,2", "search.metric=test/kl: must be one of"),
            (
                "search=tpe search.metric=[val/kl,val/recon] search.pruner=median seed=1,2",
                "search.pruner=median: must be none with several metrics",
            ),
            ("search=tpe seed=1,2 data.val_size=0", "search.metric=val/neg_elbo: requires valid"),
            ("search.trials=5 seed=1,2", "search.trials=5: requires search="),
            ("search=bayes seed=1,2", "search=bayes: must be one of gp, grid, qmc, random, tpe"),
            ("search=tpe seed=tag(log,interval(0,1))", "must be above 0 to have the tag log"),
            ("search=tpe seed=tag(x,interval(0,1))", "must have no tag but log, not x"),
            ("search=tpe seed=interval(1,0)", "must be an interval whose start is below its end"),
            ("search=tpe seed=tag(log,range(1,9,2))", "must have steps of 1 to have the tag log"),
            ("search=tpe model.latent_dim=range(0,5)", "model.latent_dim=0: must be an integer"),
        ],
    )
    def test_a_wrong_search_is_refused_by_name(self, typed: str, message: str) -> None:
        with pytest.raises(ConfigError) as raised:
            list_jobs(["data=digits", *typed.split()], None)
        assert message in str(raised.value)

    @pytest.mark.attack("wrong command")
    def test_without_optuna_the_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        find = importlib.util.find_spec
        monkeypatch.setattr(
            "vae_lightning.config.optional.find_spec",
            lambda name: None if name == "optuna" else find(name),
        )
        with pytest.raises(ConfigError, match=r"search=tpe: .* pip install 'vae_lightning\[search"):
            read_typed(["search=tpe", "seed=1,2"], None)

    @pytest.mark.attack("wrong command")
    def test_a_database_that_cannot_be_opened_is_one_line_without_the_password(
        self, tmp_path: Path
    ) -> None:
        plan = search_plan("search.storage=x")
        for url in ("nonsense", "oracle://me:secret@host/db", f"sqlite:///{tmp_path}/a/b.db"):
            with pytest.raises(ConfigError, match=r"must be the URL of a database") as raised:
                connect(url, plan)
            assert "secret" not in str(raised.value)
        with pytest.raises(ConfigError, match="must be the URL of its database"):
            connect(None, plan)


def plan_of(*typed: str) -> Plan:
    words = ["search=tpe", "search.trials=20", *SPACE, *typed]
    return read_typed([*DIGITS, f"trainer.max_epochs={EPOCHS}", *words], None)[0]


def search_plan(*typed: str) -> SearchPlan:
    search = plan_of(*typed).search
    assert search
    return search


def value_of(options: Mapping[str, str]) -> float:
    """What a made-up job reaches: the nearer to 3 latent dimensions and lr 1e-3, the better."""
    return abs(int(options["model.latent_dim"]) - 3) + abs(float(options["optimizer.lr"]) - 1e-3)


class MadeUpJobs:
    """A launcher whose jobs write the files of a run, an epoch at a time, and obey the stop file.

    ``dies_after`` so many epochs the driver dies, and its jobs are interrupted.
    """

    def __init__(self, dies_after: int = 10**9) -> None:
        self.trained: list[tuple[str, int]] = []  # job and epoch
        self.started: list[str] = []
        self.active: list[tuple[Task, FakeRunning]] = []
        self.left = dies_after

    def start(self, task: Task, _: Need) -> FakeRunning:
        self.started.append(task.folder.name)
        task.folder.mkdir(exist_ok=True)
        running = FakeRunning()
        self.active.append((task, running))
        write_state(task.folder, "running")
        return running

    def wait(self, running: Sequence[FakeRunning], _: float) -> None:
        for task, each in self.active:
            if each in running and each.code is None:
                self.epoch(task, each)

    def epoch(self, task: Task, running: FakeRunning) -> None:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        folder = task.folder
        stop, table = folder / "stop", folder / "metrics.csv"
        done = rows(table) if table.is_file() else []
        if stop.is_file():
            stop.unlink()
            write_state(folder, "pruned")
            running.code = 0
            return
        options = dict(word.split("=") for word in task.overrides)
        number = len(done) + 1
        self.trained.append((folder.name, number))
        final = value_of(options)
        lines = [*(row["val/neg_elbo"] for row in done), str(final + EPOCHS - number)]
        table.write_text(
            "epoch,val/neg_elbo,val/recon,val/kl,seconds\n"
            + "".join(f"{n},{value},{value},0,1\n" for n, value in enumerate(lines, 1))
        )
        os.utime(table, ns=(0, 10**9 * number))
        if number == EPOCHS:
            scores = {"val/neg_elbo": final, "val/recon": final, "val/kl": 1 / (1 + final)}
            (folder / "metrics.json").write_text(json.dumps(scores | {"data": "digits"}))
            write_state(folder, "finished")
            running.code = 0


def write_state(folder: Path, state: str) -> None:
    (folder / "status.json").write_text(json.dumps({"state": state}))


def run_search(plan: Plan, place: Path, launcher: MadeUpJobs, slots: int = 2) -> Search:
    def make(job: Job, _: Plan) -> Work:
        words = tuple(word for word in job.overrides if word in job.swept)
        task = Task(place / job.name, words, b"", place / "log", place / "lock", False)
        return Work(job, task, ONE, EPOCHS)

    display = Display([])
    search = Search(plan, place, None, make, display, EPOCHS)
    driver = Driver(search, Slots([ONE] * 20, slots, [], None, 1), launcher, display, False)
    driver.run(StopSignals())
    return search


def start(place: Path, *typed: str, **options: int) -> tuple[Search, MadeUpJobs]:
    plan = plan_of(*typed)
    plan.write(place)
    launcher = MadeUpJobs(**options)
    return run_search(plan, place, launcher), launcher


class TestSearch:
    @pytest.mark.parametrize("kind", ["random", "tpe", "qmc"])
    def test_every_point_is_run_and_told(self, kind: str, tmp_path: Path) -> None:
        search, launcher = start(tmp_path, f"search={kind}")
        trials = search.trials()
        assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 20
        assert len(launcher.started) == len(set(launcher.started)) == 20
        plan = read_plan(tmp_path, "resume")
        assert [job.name for job in plan.jobs] == launcher.started
        best = search.study.best_trial
        value = min(value_of(dict(w.split("=") for w in job.swept)) for job in plan.jobs)
        assert best.value == pytest.approx(value)
        assert collect([tmp_path])[0].scores["val/neg_elbo"] == best.value

    def test_a_search_that_continues_draws_the_same_points(self, tmp_path: Path) -> None:
        whole, cut = tmp_path / "whole", tmp_path / "cut"
        for place in (whole, cut):
            place.mkdir()
        for kind in ("random", "tpe", "qmc"):
            plan = plan_of(f"search={kind}")
            names = []
            for place, many in ((whole / kind, [20]), (cut / kind, [7, 13, 20])):
                place.mkdir()
                plan.write(place)
                for trials in many:
                    assert plan.search
                    now = read_plan(place, "resume")
                    now = now._replace(search=plan.search._replace(trials=trials))
                    run_search(now, place, MadeUpJobs(), slots=1)
                names.append([job.name for job in read_plan(place, "resume").jobs])
            assert names[0] == names[1]

    def test_a_dead_driver_loses_no_point_and_runs_none_twice(self, tmp_path: Path) -> None:
        plan_of("search.pruner=median").write(tmp_path)
        trained: list[tuple[str, int]] = []
        for death in range(1, 11):
            launcher = MadeUpJobs(dies_after=2 + death % 4)
            with pytest.raises(KeyboardInterrupt):
                run_search(read_plan(tmp_path, "resume"), tmp_path, launcher)
            trained += launcher.trained
        launcher = MadeUpJobs()
        search = run_search(read_plan(tmp_path, "resume"), tmp_path, launcher)
        trained += launcher.trained
        assert len(trained) == len(set(trained))
        assert len(search.trials()) == 20
        assert {trial.state for trial in search.trials()} <= {
            TrialState.COMPLETE,
            TrialState.PRUNED,
        }
        assert len({name for name, _ in trained}) == len(read_plan(tmp_path, "resume").jobs) == 20

    def test_a_driver_may_die_while_it_draws_or_writes(self, tmp_path: Path) -> None:
        plan = plan_of("search.trials=3")
        plan.write(tmp_path)
        search, _ = start(tmp_path, "search.trials=1")
        half = search.study.ask({"model.latent_dim": search.distributions["model.latent_dim"]})
        with (tmp_path / STUDY).open("ab") as file:
            file.write(b'{"op_code":5,"wor')
        (tmp_path / f"{STUDY}.lock").touch()
        stored = read_plan(tmp_path, "resume")
        assert stored.search
        launcher = MadeUpJobs()
        plan = stored._replace(search=stored.search._replace(trials=3))
        search = run_search(plan, tmp_path, launcher)
        assert [trial.state for trial in search.trials()] == [TrialState.COMPLETE] * 3
        assert search.trials()[1].params["model.latent_dim"] == half.params["model.latent_dim"]
        assert len(launcher.started) == 2

    def test_pruned_jobs_keep_their_value_and_are_shown(self, tmp_path: Path) -> None:
        search, launcher = start(tmp_path, "search.pruner=median")
        pruned = [trial for trial in search.trials() if trial.state == TrialState.PRUNED]
        assert 3 <= len(pruned) <= 15
        assert len(launcher.trained) < 20 * EPOCHS
        found = [each for each in collect([tmp_path]) if each.state == "pruned"]
        assert sorted(each.scores["val/neg_elbo"] for each in found) == sorted(
            trial.value for trial in pruned
        )
        assert terminal_table(collect([tmp_path])).count("pruned") == len(pruned)

    def test_a_point_that_is_drawn_again_is_told_its_value(self, tmp_path: Path) -> None:
        plan = read_typed(
            [*DIGITS, "search=random", "search.trials=12", *FOUR],
            None,
        )[0]
        plan.write(tmp_path)
        launcher = MadeUpJobs()
        search = run_search(plan, tmp_path, launcher)
        assert len(search.trials()) == 12
        assert all(trial.state == TrialState.COMPLETE for trial in search.trials())
        assert len(launcher.started) == len(set(launcher.started)) <= 4

    def test_a_failed_job_starts_again_when_the_search_continues(self, tmp_path: Path) -> None:
        class Failing(MadeUpJobs):
            def epoch(self, task: Task, running: FakeRunning) -> None:
                running.code = 1

        plan = plan_of("search.trials=3")
        plan.write(tmp_path)
        search = run_search(plan, tmp_path, Failing())
        assert [trial.state for trial in search.trials()] == [TrialState.FAIL] * 3
        launcher = MadeUpJobs()
        search = run_search(read_plan(tmp_path, "resume"), tmp_path, launcher)
        assert len(launcher.started) == 3
        assert [trial.state.name for trial in search.trials()] == ["FAIL"] * 3 + ["COMPLETE"] * 3
        assert not run_search(read_plan(tmp_path, "resume"), tmp_path, launcher).left
        assert len(launcher.started) == 3

    def test_several_metrics_have_a_front(self, tmp_path: Path) -> None:
        start(tmp_path, "search.metric=[val/recon,val/kl]", "search.trials=8")
        found = collect([tmp_path])
        assert len(best_of(found)) == 8  # kl falls as recon rises
        assert terminal_table(found).count("*") == 8

    def test_only_the_number_of_points_may_change(self, tmp_path: Path) -> None:
        stored = plan_of()
        more = extended(stored, plan_of("search.trials=60"), tmp_path)
        assert stored.search
        assert more.search == stored.search._replace(trials=60)
        for other, message in (
            ("search.pruner=median", "search.pruner was none, is median"),
            ("search=random", "search was tpe, is random"),
            ("optimizer.lr=interval(1,2)", "the space was"),
        ):
            with pytest.raises(ConfigError, match=message):
                extended(stored, plan_of(other), tmp_path)

    @pytest.mark.attack("damaged file")
    @pytest.mark.parametrize("text", ["x\n", "[]\n", '{"op_code":0}\n', ""])
    def test_a_damaged_study_is_one_line(self, text: str, tmp_path: Path) -> None:
        start(tmp_path, "search.trials=1")
        (tmp_path / STUDY).write_text(text)
        with pytest.raises(ConfigError, match=r"study.log is damaged|study .* is missing"):
            run_search(read_plan(tmp_path, "resume"), tmp_path, MadeUpJobs())

    def test_samplers_depend_on_the_seed(self) -> None:
        plans = [search_plan("search=random", f"search.seed={seed}") for seed in (0, 1)]
        drawn = []
        for plan in (*plans, plans[0]):
            study = optuna.create_study(sampler=make_sampler(plan, 3))
            drawn.append(study.ask({"a": optuna.distributions.FloatDistribution(0, 1)}).params)
        assert drawn[0] != drawn[1]
        assert drawn[0] == drawn[2]


class TestSharedStudy:
    """Several drivers, each with a folder of its own, and one study in a database."""

    WORDS = ("search=random", "search.study=ours", "search.trials=9", "search.storage=x")

    def driver(self, place: Path, name: str, *typed: str) -> Search:
        folder = place / name
        if not folder.is_dir():
            folder.mkdir()
            plan_of(*self.WORDS, *typed).write(folder)
        plan = read_plan(folder, "resume")
        assert plan.search
        storage = connect(f"sqlite:///{place}/study.db", plan.search)
        check_shared(storage, plan.search, plan.identity)

        def make(job: Job, _: Plan) -> Work:
            task = Task(folder / job.name, (), b"", folder / "log", folder / "lock", False)
            return Work(job, task, ONE, EPOCHS)

        return Search(plan, folder, storage, make, Display([]), EPOCHS)

    def end(self, search: Search, work: Work, value: float) -> None:
        work.task.folder.mkdir()
        (work.task.folder / "metrics.json").write_text(json.dumps({"val/neg_elbo": value}))
        write_state(work.task.folder, "finished")
        search.ended(work, "finished")

    def test_no_point_is_drawn_twice_and_a_driver_continues_only_its_own(
        self, tmp_path: Path
    ) -> None:
        drivers = [self.driver(tmp_path, name) for name in "ab"]
        started: list[tuple[Search, Work]] = []
        while len(started) < 4:
            started += [(each, work) for each in drivers if (work := each.next())]
        again = self.driver(tmp_path, "a")  # the first one has died
        assert {job.name for job in again.left} == {
            work.job.name for search, work in started if search is drivers[0]
        }
        for number, (search, work) in enumerate(started):
            self.end(again if search is drivers[0] else search, work, number)
        drivers[0] = again
        while works := [(each, work) for each in drivers if (work := each.next())]:
            started += works
            for search, work in works:
                self.end(search, work, 5.0)
        names = [work.job.name for _, work in started]
        assert len(names) == len(set(names)) == 9
        assert [trial.state for trial in again.trials()] == [TrialState.COMPLETE] * 9

    def test_points_beyond_the_last_one_are_given_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        search = self.driver(tmp_path, "a", "search.trials=1")
        assert search.next()
        # another driver has drawn between the count and the draw
        monkeypatch.setattr(Search, "drawn", property(lambda self: len(self.trials()) - 1))
        assert search.next() is None
        assert [trial.state.name for trial in search.trials()] == ["RUNNING", "FAIL"]

    def test_a_point_of_another_driver_is_not_run_again(self, tmp_path: Path) -> None:
        one, other = (
            self.driver(tmp_path, name, "search.trials=2", "model.latent_dim=3", "optimizer.lr=1,1")
            for name in "ab"
        )
        work = one.next()
        assert work
        self.end(one, work, 4.0)
        assert other.next() is None
        assert [trial.values for trial in other.trials()] == [[4.0], [4.0]]
        assert not read_plan(tmp_path / "b", "resume").jobs

    @pytest.mark.attack("wrong command")
    @pytest.mark.parametrize("word", ["search.pruner=median", "model.hidden_dims=[9]"])
    def test_another_search_must_not_share_the_study(self, word: str, tmp_path: Path) -> None:
        self.driver(tmp_path, "a")
        with pytest.raises(ConfigError, match=r"search.study=ours: must be a new name, or that of"):
            self.driver(tmp_path, "b", word)

    @pytest.mark.attack("wrong command")
    def test_a_shared_study_requires_a_database(self) -> None:
        with pytest.raises(ConfigError, match=r"search.study=ours: requires search.storage"):
            plan_of("search.study=ours")

    @pytest.mark.attack("wrong command")
    def test_without_psycopg_the_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plan = search_plan("search.storage=x")
        monkeypatch.setattr("vae_lightning.config.optional.find_spec", lambda _: None)
        with pytest.raises(ConfigError, match=r"pip install 'vae_lightning\[postgres\]'") as raised:
            connect("postgresql+psycopg://me:secret@host/db", plan)
        assert "secret" not in str(raised.value)


def search_command(*overrides: str) -> list[str]:
    small = ["trainer.max_epochs=8", "search=tpe", "search.trials=4", "search.pruner=median"]
    words = [*DIGITS, *small, *SPACE, "hydra.sweep.dir=sweep", *overrides]
    return [sys.executable, "-m", "vae_lightning.train", "-m", *words]


@pytest.mark.slow
def test_a_search_is_killed_continues_and_is_extended(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    with subprocess.Popen(search_command(), cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        while not list(sweep.glob("*/checkpoints/last.ckpt")):
            assert process.poll() is None
            time.sleep(0.05)
        has_torch, _ = libraries(process.pid)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not has_torch
    done = subprocess.run(
        [sys.executable, "-m", "vae_lightning.sweep", "resume=sweep", "search.trials=5"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    table = rows(sweep / "sweep.csv")
    assert len(table) == 5
    assert {row["state"] for row in table} <= {"finished", "pruned"}
    assert (sweep / "best").resolve().name == table[0]["folder"]
    logs = [path.read_text() for path in (sweep / "logs").iterdir()]
    assert len(logs) == 5
    assert all(log.count("epoch   1/8") == 1 for log in logs)
    page = (sweep / "report.html").read_text()
    assert all(row["folder"] in page for row in table)
    assert len(page) < 6e6


@pytest.mark.slow
def test_a_stop_file_ends_a_run_which_can_continue(train: Command, tmp_path: Path) -> None:
    words = [*DIGITS, "trainer.max_epochs=3"]
    (tmp_path / "run").mkdir()
    done = train(*words, "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    (run / "stop").touch()
    more = train("resume=run", "trainer.max_epochs=6", cwd=tmp_path)
    assert more.returncode == 0, more.stderr
    assert "pruned. To continue: " in more.stderr
    assert json.loads((run / "status.json").read_text()) == {"state": "pruned"}
    assert [row["epoch"] for row in rows(run / "metrics.csv")] == ["1", "2", "3", "4"]
    assert not (run / "stop").exists()
    last = train("resume=run", cwd=tmp_path)
    assert last.returncode == 0, last.stderr
    assert len(rows(run / "metrics.csv")) == 6
    assert json.loads((run / "status.json").read_text()) == {"state": "finished"}


@pytest.mark.slow
def test_a_stop_file_ends_all_processes_of_a_run(tmp_path: Path) -> None:
    words = [*DIGITS, "accelerator=ddp_cpu", "trainer.max_epochs=400", "hydra.run.dir=run"]
    run = tmp_path / "run"
    command = [sys.executable, "-m", "vae_lightning.train", *words]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        while not (run / "metrics.csv").is_file():
            assert process.poll() is None
            time.sleep(0.05)
        (run / "stop").touch()
        _, shown = process.communicate(timeout=60)  # until all processes have closed it
    assert process.returncode == 0, shown
    assert shown.count("pruned. To continue: ") == 1
    assert json.loads((run / "status.json").read_text()) == {"state": "pruned"}
    assert not (run / "stop").exists()
    assert len(rows(run / "metrics.csv")) < 400
