"""The launchers of clusters with a pretended SLURM and a pretended Ray, and node.py in process."""

import contextlib
import functools
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from omegaconf import DictConfig

from test_sweeps import DIGITS
from vae_lightning.checks.errors import ConfigError, Interrupted
from vae_lightning.config.compose import compose
from vae_lightning.storage.run_folder import to_dict
from vae_lightning.sweeps import job, node
from vae_lightning.sweeps.display import Display
from vae_lightning.sweeps.driver import Driver
from vae_lightning.sweeps.job import Task
from vae_lightning.sweeps.launchers import cluster, ray_cluster, slurm
from vae_lightning.sweeps.launchers.choose import continued
from vae_lightning.sweeps.launchers.cluster import Files, Queue, name_of, need_on
from vae_lightning.sweeps.launchers.slots import Need
from vae_lightning.sweeps.plan import Job, configuration, read_plan, read_typed
from vae_lightning.sweeps.start import list_jobs, resume_sweep, start_sweep
from vae_lightning.sweeps.work import Jobs, Work
from vae_lightning.training.signals import StopSignals

ONE = Need(1, None, gpu=False)


@functools.cache
def options(kind: str, *words: str) -> DictConfig:
    return compose("config", [f"launcher={kind}", *words]).launcher


def task(folder: Path, name: str = "a") -> Task:
    (folder / ".locks").mkdir(exist_ok=True)
    log, lock = folder / f"{name}.log", folder / ".locks" / name
    return Task(folder / name, (), b"", log, lock, replaced=False)


def save(work: Task) -> None:
    """What a job does that trains."""
    checkpoint = work.folder / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_text("")


class Slurm:
    """What the commands of SLURM answer; the test says what becomes of the jobs."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.names: dict[str, str] = {}
        self.calls: list[Sequence[str]] = []
        self.answers, self.accepts = True, True

    def submit(self, name: str) -> SimpleNamespace:
        from submitit.core.utils import FailedJobError

        if not self.accepts:
            raise FailedJobError("sbatch: error: too many jobs")
        number = str(len(self.states) + 1)
        self.states[number], self.names[number] = "PENDING", name
        return SimpleNamespace(job_id=number)

    def run(self, command: Sequence[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.calls.append(command)
        lines = ""
        if command[0] == "squeue":
            lines = "".join(f"{n}|{state}|{self.names[n]}\n" for n, state in self.states.items())
        if command[0] == "scancel" and self.states[command[-1]] == "PENDING":
            self.states[command[-1]] = "CANCELLED"
        return subprocess.CompletedProcess(command, 0 if self.answers else 1, lines, "")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for."""
    for module, name in (
        (slurm, "POLLED_S"),
        (slurm, "HURRIED_S"),
        (slurm, "REFUSED_S"),
        (cluster, "SEEN_S"),
        (cluster, "LOOKED_S"),
    ):
        monkeypatch.setattr(module, name, 0.0)


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Slurm:
    pretended = Slurm()

    def executor(*given: Any) -> SimpleNamespace:
        return SimpleNamespace(_submit_command=lambda _: pretended.submit(given[-1]))

    monkeypatch.setattr(slurm.SlurmLauncher, "executor", executor)
    monkeypatch.setattr(slurm, "subprocess", SimpleNamespace(run=pretended.run))
    return pretended


def slurm_launcher() -> slurm.SlurmLauncher:
    return slurm.SlurmLauncher(options("slurm"), trust=True)


def begin(folder: Path) -> slurm.SlurmRunning:
    running = slurm_launcher().start(task(folder), ONE)
    assert running
    return running


class TestSlurm:
    def test_a_job_is_submitted_once_and_found_by_the_next_driver(
        self, queue: Slurm, tmp_path: Path
    ) -> None:
        first = begin(tmp_path)
        assert Files(task(tmp_path).lock).id.read_text() == "1\n"
        assert begin(tmp_path).number == first.number == "1"
        queue.states["1"] = "RUNNING"
        running = begin(tmp_path)
        assert running.exit_code() is None
        Files(task(tmp_path).lock).code.write_text("0\n")
        assert running.exit_code() == 0
        running.close()
        assert list(queue.states) == ["1"]
        assert [path.name for path in (tmp_path / ".locks").iterdir()] == ["a.code"]

    def test_a_job_whose_id_was_not_stored_is_found_by_its_name(
        self, queue: Slurm, tmp_path: Path
    ) -> None:
        queue.submit("another")
        queue.submit(name_of(task(tmp_path)))
        assert begin(tmp_path).number == "2"
        queue.states["2"] = "COMPLETED"
        assert begin(tmp_path).number == "3"

    def test_a_job_that_ended_without_a_driver_is_not_submitted_again(
        self, queue: Slurm, tmp_path: Path
    ) -> None:
        begin(tmp_path)
        queue.states["1"] = "COMPLETED"
        Files(task(tmp_path).lock).code.write_text("0\n")
        assert begin(tmp_path).exit_code() == 0
        assert len(queue.states) == 1

    def test_a_job_that_slurm_queues_again_has_not_ended(
        self, queue: Slurm, tmp_path: Path
    ) -> None:
        running, code = begin(tmp_path), Files(task(tmp_path).lock).code
        code.write_text("143\n")
        for state in ("COMPLETING", "REQUEUED", "PENDING", "RUNNING"):
            queue.states["1"] = state
            assert running.exit_code() is None
        code.write_text("0\n")
        assert running.exit_code() == 0

    def test_a_job_that_ends_at_the_moment_is_submitted_again_afterwards(
        self, queue: Slurm, tmp_path: Path
    ) -> None:
        begin(tmp_path)
        queue.states["1"] = "COMPLETING"
        Files(task(tmp_path).lock).code.write_text("143\n")
        assert slurm_launcher().start(task(tmp_path), ONE) is None
        queue.states["1"] = "FAILED"
        assert begin(tmp_path).number == "2"

    @pytest.mark.parametrize("state", sorted(slurm.CONTINUED))
    def test_a_job_that_its_machine_ended_is_submitted_again_if_it_got_on(
        self, queue: Slurm, tmp_path: Path, state: str
    ) -> None:
        running = begin(tmp_path)
        save(task(tmp_path))
        queue.states["1"] = state
        assert running.exit_code() is None
        assert queue.states == {"1": state, "2": "PENDING"}
        assert Files(task(tmp_path).lock).id.read_text() == "2\n"
        queue.states["2"] = state  # without a new checkpoint
        assert running.exit_code() == 1
        assert running.reason == f"SLURM job 2: {state}"
        assert len(queue.states) == 2

    @pytest.mark.parametrize("state", ["OUT_OF_MEMORY", "FAILED", None])
    def test_a_lost_job_has_failed_with_the_reason(
        self, queue: Slurm, tmp_path: Path, state: str | None
    ) -> None:
        running = begin(tmp_path)
        save(task(tmp_path))
        if state:
            queue.states["1"] = state
        else:
            queue.states.clear()
        assert running.exit_code() == 1
        assert running.reason == f"SLURM job 1: {state or 'no longer known to SLURM'}"

    def test_a_lost_job_gets_time_until_its_files_are_visible(
        self, queue: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cluster, "SEEN_S", 60.0)
        running = begin(tmp_path)
        queue.states["1"] = "COMPLETED"
        assert running.exit_code() is None
        Files(task(tmp_path).lock).code.write_text("0\n")
        assert running.exit_code() == 0

    def test_a_job_that_the_user_cancels_is_interrupted(self, queue: Slurm, tmp_path: Path) -> None:
        running = begin(tmp_path)
        save(task(tmp_path))
        queue.states["1"] = "CANCELLED"
        Files(task(tmp_path).lock).code.write_text("143\n")
        assert running.exit_code() == 143

    def test_nothing_is_decided_while_slurm_does_not_answer(
        self, queue: Slurm, tmp_path: Path
    ) -> None:
        running = begin(tmp_path)
        queue.answers = False
        queue.states["1"] = "FAILED"
        assert running.exit_code() is None
        assert slurm_launcher().start(task(tmp_path, "b"), ONE) is None
        assert len(queue.states) == 1

    def test_a_refused_job_is_submitted_later_but_a_refused_first_one_is_an_error(
        self, queue: Slurm, tmp_path: Path
    ) -> None:
        launcher = slurm_launcher()
        assert launcher.start(task(tmp_path), ONE)
        queue.accepts = False
        assert launcher.start(task(tmp_path, "b"), ONE) is None
        with pytest.raises(ConfigError, match="sbatch says: sbatch: error: too many jobs"):
            slurm_launcher().start(task(tmp_path, "b"), ONE)
        queue.accepts = True
        assert launcher.start(task(tmp_path, "b"), ONE)

    def test_a_waiting_job_leaves_the_queue_and_a_running_one_is_asked_by_a_file(
        self, queue: Slurm, tmp_path: Path
    ) -> None:
        running, files = begin(tmp_path), Files(task(tmp_path).lock)
        running.ask_to_stop()
        assert ["scancel", "--quiet", "--state=PENDING", "1"] in queue.calls
        assert files.stop.is_file()
        assert running.exit_code() == 143
        running.close()
        assert not files.stop.exists()

    def test_the_script_has_what_the_job_needs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("submitit.SlurmExecutor.affinity", lambda _: 1)  # as if srun were here
        words = ["partition=gpu", "gpus=2", "memory=8G", "time=1-00:00:00", "account=lab", "cpus=4"]
        chosen = options(
            "slurm", *(f"launcher.{word}" for word in words), "launcher.sbatch={qos: x}"
        )
        launcher = slurm.SlurmLauncher(chosen, trust=True)
        needs = {
            "local": (Need(2, None, gpu=True), ["nodes=1", "ntasks-per-node=1", "cpus-per-task=8"]),
            "nodes": (Need(2, 3, True, 4), ["nodes=4", "ntasks-per-node=2", "cpus-per-task=6"]),
        }
        common = ["partition=gpu", "account=lab", "mem=8G", "time=1-00:00:00", "qos=x"]
        for name, (need, lines) in needs.items():
            lines = [line.replace("task=6", "task=3") for line in lines]
            text = launcher.executor(tmp_path, need, name)._make_submission_file_text("run", "")
            for line in [*common, *lines, "gpus-per-node=4", "signal=USR2@90"]:
                assert f"#SBATCH --{line}\n" in text
            assert "#SBATCH --requeue\n" in text
            assert "--kill-on-bad-exit=1 run" in text


class Ray(ModuleType):
    """A cluster whose actors the test ends."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.actors: dict[str, list[str]] = {}
        self.created = 0

    def get_actor(self, name: str) -> str:
        if name not in self.actors:
            raise ValueError(name)
        return name

    def remote(self, _: type) -> "Ray":
        return self

    def options(self, **given: Any) -> SimpleNamespace:
        def create(command: list[str], folder: str, variables: Mapping[str, str]) -> None:
            assert (Path(folder), variables.keys() <= {*ray_cluster.PASSED}) == (Path.cwd(), True)
            self.created += 1
            self.actors[given["name"]] = command

        assert given["lifetime"] == "detached"
        return SimpleNamespace(remote=create)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    pretended = Ray()
    monkeypatch.setitem(sys.modules, "ray", pretended)
    return pretended


def ray_launcher() -> ray_cluster.RayLauncher:
    return ray_cluster.RayLauncher(options("ray"), trust=True)


def begin_on_ray(folder: Path) -> ray_cluster.RayRunning:
    running = ray_launcher().start(task(folder), ONE)
    assert running
    return running


class TestRay:
    def test_a_job_is_started_once_and_found_by_the_next_driver(
        self, ray: Ray, tmp_path: Path
    ) -> None:
        ray_launcher().start(task(tmp_path), ONE)
        running = begin_on_ray(tmp_path)
        assert ray.created == 1
        assert running.exit_code() is None
        Files(task(tmp_path).lock).code.write_text("3\n")
        assert running.exit_code() == 3

    def test_a_job_that_ends_at_the_moment_is_started_again_afterwards(
        self, ray: Ray, tmp_path: Path
    ) -> None:
        ray_launcher().start(task(tmp_path), ONE)
        Files(task(tmp_path).lock).code.write_text("143\n")
        assert ray_launcher().start(task(tmp_path), ONE) is None
        ray.actors.clear()
        assert ray_launcher().start(task(tmp_path), ONE)
        assert ray.created == 2

    def test_a_job_that_ended_without_a_driver_is_not_started_again(
        self, ray: Ray, tmp_path: Path
    ) -> None:
        begin_on_ray(tmp_path)
        ray.actors.clear()
        Files(task(tmp_path).lock).code.write_text("0\n")
        assert begin_on_ray(tmp_path).exit_code() == 0
        assert ray.created == 1

    def test_a_job_whose_machine_is_lost_starts_again_if_it_got_on(
        self, ray: Ray, tmp_path: Path
    ) -> None:
        running = begin_on_ray(tmp_path)
        save(task(tmp_path))
        ray.actors.clear()
        assert running.exit_code() is None
        assert ray.created == 2
        ray.actors.clear()
        assert running.exit_code() == 1
        assert running.reason == "Ray has lost the job"

    def test_a_job_is_asked_to_stop_by_a_file(self, ray: Ray, tmp_path: Path) -> None:
        running = begin_on_ray(tmp_path)
        running.ask_to_stop()
        assert Files(task(tmp_path).lock).stop.is_file()
        running.close()
        ray.actors.clear()
        ray_launcher().start(task(tmp_path), ONE)
        assert not Files(task(tmp_path).lock).stop.is_file()

    def test_as_many_jobs_as_the_cluster_has_room_for(self) -> None:
        chosen = options("ray", "launcher.cpus=2", "launcher.gpus=0.5")
        resources = {"CPU": 17.0, "GPU": 2.0}
        assert ray_cluster.count_fitting(chosen, ONE, resources) == 8.5
        assert ray_cluster.count_fitting(chosen, Need(2, 1, gpu=True), resources) == 2

    @pytest.mark.attack("wrong command")
    @pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere", "a:b"])
    def test_a_cluster_that_does_not_answer_is_one_line(self, ray: Ray, address: str) -> None:
        with pytest.raises(ConfigError, match=f"launcher.address={address}: must be local, auto"):
            ray_cluster.connect(address)


def pass_time(end: Callable[[str], None]) -> Callable[..., None]:
    """A ``wait`` in which the first job that runs ends well."""

    def wait(running: Sequence[Any], _: float) -> None:
        files = [each.files for each in running if each.files.read_code() is None]
        for each in files[:1]:
            each.code.write_text("0\n")
            end(each.code.name.removesuffix(".code"))

    return wait


class TestDriver:
    """A driver of five jobs that is ended by a signal, and a second one."""

    def drive(self, place: Path, launcher: Any, left: Sequence[str], stop: StopSignals) -> None:
        works = [Work(Job(name, (), ()), task(place, name), ONE, 3) for name in left]
        Driver(Jobs(works), Queue(2, 1), launcher, Display([]), stops_on_error=False).run(stop)

    @pytest.mark.parametrize("kind", ["slurm", "ray"])
    def test_no_job_is_lost_or_started_twice(
        self, kind: str, tmp_path: Path, request: pytest.FixtureRequest
    ) -> None:
        engine = request.getfixturevalue("queue" if kind == "slurm" else "ray")
        make = slurm_launcher if kind == "slurm" else ray_launcher
        ended: list[str] = []
        stop, names = StopSignals(), list("abcde")

        def end_then_signal(name: str) -> None:
            ended.append(name)
            stop.received = signal.SIGTERM

        launcher = make()
        launcher.wait = pass_time(end_then_signal)
        display = Display([])
        with pytest.raises(Interrupted):
            self.drive(tmp_path, launcher, names, stop)
        assert ended == ["a"]
        assert not list(tmp_path.glob(".locks/*.stop"))  # the other one goes on
        launcher = make()
        launcher.wait = pass_time(ended.append)
        self.drive(tmp_path, launcher, [name for name in names if name != "a"], StopSignals())
        assert ended == names
        assert (len(engine.states) if kind == "slurm" else engine.created) == 5
        assert display.total == 0

    def test_a_driver_waits_for_a_cluster_that_takes_no_job_yet(
        self, queue: Slurm, tmp_path: Path
    ) -> None:
        ended: list[str] = []
        launcher, end = slurm_launcher(), pass_time(ended.append)

        def wait(running: Sequence[Any], seconds: float) -> None:
            queue.answers = True
            end(running, seconds)

        launcher.wait, queue.answers = wait, False
        self.drive(tmp_path, launcher, ["a"], StopSignals())
        assert ended == ["a"]


class TestNode:
    @pytest.fixture
    def sweep(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        plan = read_typed([*DIGITS, "seed=1,2", "launcher=slurm"], None)[0]
        plan._replace(replaced={"digits": "digits"}).write(tmp_path)
        (tmp_path / ".locks").mkdir()
        monkeypatch.setattr(job, "redirect", lambda _: None)
        return tmp_path

    def run(
        self,
        sweep: Path,
        monkeypatch: pytest.MonkeyPatch,
        train: Callable[..., None],
        name: str = "",
    ) -> str:
        """The exit code that the job writes."""
        name = name or read_plan(sweep, "sweep").jobs[0].name
        monkeypatch.setattr(sys, "argv", ["node", str(sweep), name, "3", "--trust"])
        monkeypatch.setattr(job, "train", train)
        with contextlib.suppress(SystemExit):
            node.main()
        return (sweep / ".locks" / f"{name}.code").read_text()

    def test_a_job_trains_its_words_and_writes_its_code(
        self, sweep: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[Task] = []
        assert self.run(sweep, monkeypatch, lambda task, *_: seen.append(task)) == "0\n"
        (found,) = seen
        plan = read_plan(sweep, "sweep")
        assert found.overrides == plan.jobs[0].overrides
        assert (found.threads, found.folder) == (3, sweep / plan.jobs[0].name)

    def test_an_unknown_job_is_a_mistake(
        self, sweep: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert self.run(sweep, monkeypatch, lambda *_: None, "x") == "2\n"

    @pytest.mark.parametrize(("saves", "queued"), [(True, 1), (False, 0)])
    def test_near_the_time_limit_a_job_that_got_on_is_queued_again(
        self, sweep: Path, monkeypatch: pytest.MonkeyPatch, saves: bool, queued: int
    ) -> None:
        calls: list[Sequence[str]] = []
        monkeypatch.setattr(node, "subprocess", SimpleNamespace(run=calls.append))
        monkeypatch.setenv("SLURM_JOB_ID", "7")

        def train(task: Task, *_: object) -> None:
            if saves:
                save(task)
            os.kill(os.getpid(), signal.SIGUSR2)

        assert self.run(sweep, monkeypatch, train) == "143\n"
        assert calls == [["scontrol", "requeue", "7"]] * queued

    def test_a_file_stops_a_job(self, sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(node, "LOOKED_S", 0.01)

        def train(task: Task, *_: object) -> None:
            Files(task.lock).stop.touch()
            signal.sigtimedwait([], 10)  # until a signal comes

        assert self.run(sweep, monkeypatch, train) == "143\n"


def test_two_sigterm_of_slurm_count_as_one_and_a_later_one_kills(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends: list[int] = []
    monkeypatch.setattr(os, "_exit", ends.append)
    with StopSignals() as stop, contextlib.suppress(Interrupted), stop.deferred(lambda: None):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert not ends
        os.kill(os.getpid(), signal.SIGINT)
        assert ends == [130]
        stop.received_at -= 2
        os.kill(os.getpid(), signal.SIGTERM)
        assert ends == [130, 143]


class TestRefused:
    @pytest.mark.attack("wrong command")
    @pytest.mark.parametrize(
        ("typed", "message"),
        [
            ("launcher.partition=gpu", "launcher.partition: requires launcher=slurm, not local"),
            (
                "launcher=slurm launcher.address=auto",
                "launcher.address: requires launcher=ray, not",
            ),
            ("launcher=ray +launcher.per_device=2", "launcher.per_device: requires launcher=local"),
            ("launcher.cpus=2", "launcher.cpus: requires launcher=slurm or ray, not local"),
            ("launcher=slurm launcher.time=0", "launcher.time=0: must be an integer >= 1"),
            ("launcher=slurm launcher.memory=8", "launcher.memory=8: must be a size such as 8G"),
            (
                "launcher=slurm 'launcher.partition=\"a b\"'",
                "launcher.partition=a b: must be a word",
            ),
            ("launcher=slurm launcher.sbatch={qos:[1]}", "launcher.sbatch={'qos': [1]}: must be"),
            ("launcher=slurm launcher.parttion=x", "launcher.parttion: no such key; did you mean"),
            (
                "launcher=ray accelerator=multi_node",
                "accelerator=multi_node: must not be part of a",
            ),
        ],
    )
    def test_a_wrong_option_is_refused_by_name(self, typed: str, message: str) -> None:
        with pytest.raises(ConfigError) as raised:
            list_jobs(["data=digits", "seed=1,2", *shlex.split(typed)], None)
        assert message in str(raised.value)

    @pytest.mark.attack("wrong command")
    @pytest.mark.parametrize(
        ("word", "message"),
        [
            ("accelerator=gpu", "accelerator=gpu: requires launcher.gpus=1 on a cluster"),
            ("accelerator=ddp_cpu trainer.devices=auto", "trainer.devices=auto: must be a number"),
            ("accelerator=multi_node seed=null", "seed=null: must be a number"),
        ],
    )
    def test_a_job_that_cannot_run_on_a_cluster_is_refused(self, word: str, message: str) -> None:
        plan, _, cfg = read_typed([*DIGITS, "launcher=slurm", *word.split()], None)
        with pytest.raises(ConfigError, match=message):
            need_on("slurm", cfg.launcher, configuration(plan.jobs[0], plan))

    def test_a_job_of_several_machines_has_its_processes_on_each(self) -> None:
        words = ["launcher=slurm", "accelerator=multi_node", "trainer.devices=2"]
        plan, _, cfg = read_typed([*DIGITS, *words, "data.batch_size=64"], None)
        need = need_on("slurm", cfg.launcher, configuration(plan.jobs[0], plan))
        assert need == Need(2, 1, gpu=False, nodes=2)

    @pytest.mark.attack("wrong command")
    @pytest.mark.parametrize(("kind", "package"), [("slurm", "submitit"), ("ray", "ray")])
    def test_without_its_package_the_extra_is_named_and_nothing_is_written(
        self, kind: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            "vae_lightning.config.optional.find_spec",
            lambda name: None if name == package else name,
        )
        words = [*DIGITS, "seed=1,2", f"launcher={kind}", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
        with pytest.raises(ConfigError, match=rf"pip install 'vae_lightning\[{kind}\]'"):
            start_sweep(words, None)
        assert not list(tmp_path.iterdir())

    @pytest.mark.attack("wrong command")
    def test_without_slurm_the_missing_program_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(slurm.shutil, "which", lambda _: None)
        words = [*DIGITS, "seed=1,2", "launcher=slurm", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
        with pytest.raises(ConfigError, match=r"machine that submits jobs to SLURM .*no sbatch"):
            start_sweep(words, None)
        assert not list(tmp_path.iterdir())

    @pytest.mark.attack("wrong command")
    def test_what_slurm_refuses_is_one_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def run(command: Sequence[str], **_: Any) -> subprocess.CompletedProcess[str]:
            assert command == ["sbatch", "--test-only"]
            error = "sbatch: error: invalid partition: x\nallocation failure: Invalid partition\n"
            return subprocess.CompletedProcess(command, 1, "", error)

        launcher = slurm_launcher()
        monkeypatch.setattr("submitit.SlurmExecutor.affinity", lambda _: 1)  # as if srun were here
        monkeypatch.setattr(slurm, "subprocess", SimpleNamespace(run=run))
        with pytest.raises(
            ConfigError, match=r"sbatch says: sbatch: error: invalid partition: x; "
        ):
            launcher.check([ONE, ONE])


class TestContinued:
    """The options of a sweep that continues."""

    def typed(self, *words: str) -> DictConfig:
        return compose("sweep", list(words)).launcher

    def test_are_those_of_before_with_those_that_are_typed(self) -> None:
        before = to_dict(options("slurm", "launcher.partition=gpu", "launcher.time=5"))
        now = continued(self.typed("launcher.time=9"), before, False, "resume=x")
        assert (now.partition, now.time, now.slots) == ("gpu", 9, 16)
        assert dict(continued(self.typed("launcher.kind=local"), before, False, "resume=x")) == {
            "kind": "local",
            "slots": "auto",
            "per_device": 1,
        }

    @pytest.mark.attack("trust")
    @pytest.mark.parametrize(
        ("kind", "word", "safe"),
        [
            ("ray", "launcher.address=evil:1", "launcher.address=local"),
            ("ray", "launcher.cpus=2", "launcher.address=local"),  # it would listen
            ("slurm", "launcher.sbatch={wrap: x}", "launcher.kind=local"),
        ],
    )
    def test_what_a_stored_sweep_must_not_decide_is_given_again(
        self, kind: str, word: str, safe: str
    ) -> None:
        before = to_dict(options(kind, word))
        with pytest.raises(ConfigError, match="must be given again, or set trust=true"):
            continued(self.typed(), before, False, "resume=x")
        continued(self.typed(), before, True, "resume=x")
        continued(self.typed(safe), before, False, "resume=x")

    @pytest.mark.attack("damaged file")
    @pytest.mark.parametrize(
        "stored",
        [
            {"kind": "x"},
            {"kind": "slurm", "partition": "a\nrm"},
            {"kind": "slurm", "slots": "many"},
            {"kind": "local", "partition": "a"},
            {"kind": []},
            {},
        ],
    )
    def test_wrong_stored_options_are_refused(self, stored: dict[str, object]) -> None:
        with pytest.raises(ConfigError, match=r"launcher\."):
            continued(self.typed(), stored, False, "resume=x")

    @pytest.mark.attack("wrong command")
    def test_an_option_of_another_launcher_is_refused(self, tmp_path: Path) -> None:
        read_typed([*DIGITS, "seed=1,2"], None)[0].write(tmp_path)
        with pytest.raises(ConfigError, match=r"launcher.partition: requires launcher=slurm, not"):
            resume_sweep(compose("sweep", [f"resume={tmp_path}", "launcher.partition=x"]))
