"""Stops and kills a run at every kind of moment, resumes it, and compares it with a whole one.

A run that was stopped must end with the same metrics.csv, metrics.json, TensorBoard scalars and
checkpoints as one that was never stopped, apart from what a clock measures.
"""

import json
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.fork_server import Done, Fault, ForkServer
from vae_lightning.storage.files import read_csv
from vae_lightning.storage.run_folder import CLOCK_COLUMNS, CLOCK_KEYS

EXPERIMENT, RECORDER = (
    "vae_lightning.training.experiment",
    "vae_lightning.training.callbacks.recorder",
)
MODULE = "vae_lightning.training.module:VAE"
# phase -> functions within which a run is stopped, and the call that is hit
MOMENTS: dict[str, tuple[tuple[str, int], ...]] = {
    "start": (
        (f"{EXPERIMENT}:build_data", 1),
        (f"{EXPERIMENT}:build_module", 1),
        (f"{EXPERIMENT}:make_parts", 1),
        (f"{EXPERIMENT}:claim", 1),
        ("vae_lightning.storage.run_folder:write_status", 1),
        ("vae_lightning.storage.run_folder:write_overrides", 1),
        ("vae_lightning.storage.run_folder:write_config", 1),
        ("vae_lightning.training.tensorboard:begin_hparams", 1),
    ),
    "training": (
        (f"{MODULE}.training_step", 1),
        (f"{MODULE}.training_step", 2),
        (f"{MODULE}.training_step", 3),
        (f"{MODULE}.training_step", 6),
        (f"{MODULE}.on_train_epoch_start", 2),
        (f"{MODULE}.on_train_epoch_end", 1),
    ),
    "validation": (
        (f"{MODULE}.validation_step", 1),
        (f"{MODULE}.validation_step", 3),
        (f"{MODULE}.on_validation_epoch_end", 2),
    ),
    "pictures": (
        ("vae_lightning.plots.gallery:Gallery.draw", 1),
        ("vae_lightning.plots.canvas:save_png", 3),
        ("vae_lightning.plots.gallery:Gallery.draw", 3),
    ),
    "saving": (
        (f"{RECORDER}:Recorder.write_checkpoint", 1),
        ("vae_lightning.storage.files:sync", 20),
        ("vae_lightning.storage.files:sync", 30),
        (f"{RECORDER}:link", 1),
        (f"{RECORDER}:link", 2),
        (f"{RECORDER}:write_csv", 1),
        (f"{RECORDER}:write_csv", 3),
    ),
    "test": (
        (f"{EXPERIMENT}:read_checkpoint", 1),
        (f"{MODULE}.test_step", 1),
        (f"{MODULE}.on_test_epoch_end", 1),
    ),
    "end": (
        ("vae_lightning.training.summary:final_metrics", 1),
        ("vae_lightning.training.tensorboard:write_embedding", 1),
        ("vae_lightning.training.tensorboard:end_hparams", 1),
        (f"{EXPERIMENT}:files.write_json", 1),
        (f"{EXPERIMENT}:final_table", 1),
    ),
}
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
)
SMALL = (
    "model.latent_dim=3",
    "model.hidden_dims=[8]",
    "data.val_size=100",
    "data.batch_size=20",
    "trainer.max_epochs=3",
    "trainer.threads=1",
    "accelerator=cpu",
)
# of trainings that end or validate within an epoch of 25 batches
LIMITS = (
    ("trainer.max_steps=37",),
    ("trainer.max_steps=37", "trainer.val_check_interval=10"),
    ("trainer.max_steps=37", "trainer.steps_per_execution=1"),
    ("trainer.max_steps=40", "trainer.val_check_interval=10"),
    ("trainer.val_check_interval=0.5",),
    ("trainer.accumulate_grad_batches=2", "trainer.max_steps=17"),
    ("trainer.accumulate_grad_batches=2", "trainer.val_check_interval=10"),
    ("trainer.check_val_every_n_epoch=2", "trainer.max_steps=60"),
    ("trainer.max_steps=60", "callbacks=[swa]"),
    ("trainer.val_check_interval=10", "callbacks=[ema]"),
)
CLOCK = (*CLOCK_KEYS, "revision")


class Attack(NamedTuple):
    """One stop of a run."""

    phase: str
    faults: tuple[Fault, ...]
    overrides: tuple[str, ...] = ()
    may_miss: bool = False  # the run may end before a fault


def attacks(numbers: tuple[int, ...] = (*SIGNALS, signal.SIGKILL)) -> Iterator[Attack]:
    """Every moment with every signal, before and after the call."""
    for phase, places in MOMENTS.items():
        for place, call in places:
            for number in numbers:
                for after in (False, True):
                    yield Attack(phase, (Fault(place, number, call, after),))


def one_step_attacks(numbers: tuple[int, ...]) -> Iterator[Attack]:
    """Stops between single optimizer steps, where Lightning is called for each of them."""
    for call in (1, 12, 24, 25, 26, 50, 74, 75):
        for number in numbers:
            fault = Fault(f"{MODULE}.training_step", number, call, after=True)
            yield Attack(
                "training, one step per call", (fault,), ("trainer.steps_per_execution=1",)
            )


def limited_attacks(generator: random.Random, count: int) -> Iterator[Attack]:
    """One to three stops at random of runs that end or validate within an epoch."""
    places = [place for phase in ("training", "validation", "saving") for place in MOMENTS[phase]]
    for _ in range(count):
        faults = tuple(
            Fault(
                place=generator.choice(places)[0],
                number=generator.choice((signal.SIGTERM, signal.SIGKILL)),
                call=generator.randint(1, 6),
                after=generator.random() < 0.5,
            )
            for _ in range(generator.randint(1, 3))
        )
        yield Attack("ends within an epoch", faults, generator.choice(LIMITS), may_miss=True)


def numbers(run: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv, without the columns that a clock measures."""
    return [
        {key: value for key, value in row.items() if key not in CLOCK_COLUMNS}
        for row in read_csv(run / "metrics.csv")
    ]


def contents(run: Path) -> dict[str, Any]:
    """What a run leaves, without what a clock measures."""
    metrics = json.loads((run / "metrics.json").read_text())
    found: dict[str, Any] = {
        "metrics.csv": numbers(run),
        "metrics.json": {key: value for key, value in metrics.items() if key not in CLOCK},
        "status.json": json.loads((run / "status.json").read_text()),
        "TensorBoard": scalars(run / "tensorboard"),
        "files": sorted(
            str(path.relative_to(run)) for path in run.rglob("*") if "tfevents" not in path.name
        ),
    }
    for name in ("best", "last"):
        stored = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
        found[f"{name}.ckpt"] = {
            key: stored[key] for key in ("state_dict", "optimizer_states", "global_step", "epoch")
        }
    return found


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """TensorBoard's scalars as it shows them: tag -> steps and values."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if not tag.startswith("speed/")
    }


def is_equal(one: object, other: object) -> bool:
    """Whether two nested values are equal, tensors bit for bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(is_equal, one, other))
    return one == other


class Runs:
    """Runs commands in a folder of its own and compares what they leave."""

    def __init__(self, server: ForkServer, data: Path, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.variables = {"VAE_LIGHTNING_DATA": str(data)}
        self.references: dict[tuple[str, ...], dict[str, Any]] = {}

    def train(self, *overrides: str, **options: Any) -> Done:  # noqa: ANN401 - those of ForkServer.run
        """Runs ``train``."""
        return self.server.run(
            "train", *overrides, cwd=self.folder, variables=self.variables, **options
        )

    def reference(self, overrides: tuple[str, ...]) -> dict[str, Any]:
        """What a run that is never stopped leaves."""
        if overrides not in self.references:
            name = f"whole-{len(self.references)}"
            done = self.train(*SMALL, *overrides, f"hydra.run.dir={name}")
            assert done.returncode == 0, done.stderr
            self.references[overrides] = contents(self.folder / name)
        return self.references[overrides]

    def stop(self, attack: Attack) -> str:
        """Stops a run, resumes it until it ends, and says what is wrong; empty if nothing is."""
        run = self.folder / "cut"
        shutil.rmtree(run, ignore_errors=True)
        command = (*SMALL, *attack.overrides, "hydra.run.dir=cut")
        for fault in attack.faults:
            done = self.train(*command, faults=[fault])
            is_missed = attack.may_miss and done.returncode == 0
            wrong = "" if is_missed else wrong_stop(done, fault, run)
            if wrong:
                return wrong
            if (run / ".hydra" / "config.yaml").is_file():
                command = ("resume=cut",)
        return self.finish(command, attack.overrides)

    def finish(self, command: tuple[str, ...], overrides: tuple[str, ...]) -> str:
        """Runs a command to its end and compares the run with one that was never stopped."""
        done = self.train(*command)
        if done.returncode != 0:
            return f"exit code {done.returncode} of {command[-1]}: {done.stderr[-300:]}"
        expected, found = self.reference(overrides), contents(self.folder / "cut")
        return ", ".join(
            f"{name} differs" for name in expected if not is_equal(expected[name], found[name])
        )

    def kill_at_random(self, generator: random.Random, most: float) -> str:
        """Kills a run up to five times at random moments and then lets it end."""
        run = self.folder / "cut"
        shutil.rmtree(run, ignore_errors=True)
        command = (*SMALL, "hydra.run.dir=cut")
        for _ in range(generator.randint(1, 5)):
            number = generator.choice((*SIGNALS, signal.SIGKILL, signal.SIGKILL, signal.SIGKILL))
            done = self.train(*command, kill_after=generator.uniform(0, most), number=number)
            if (run / ".hydra" / "config.yaml").is_file():
                command = ("resume=cut",)
            if done.returncode == 0:
                break
        return self.finish(command, ())


def wrong_stop(done: Done, fault: Fault, run: Path) -> str:
    """What is wrong about the way in which a command stopped; empty if nothing is."""
    expected = {signal.SIGKILL: -9, signal.SIGINT: 130}.get(fault.number, 143)
    if done.returncode != expected:
        return f"exit code {done.returncode} instead of {expected}: {done.stderr[-300:]}"
    if fault.number == signal.SIGKILL:
        return ""
    if "Traceback" in done.stderr:
        return f"a traceback: {done.stderr[-300:]}"
    if not (run / "status.json").is_file():
        return ""
    state = json.loads((run / "status.json").read_text())["state"]
    if state != "interrupted":
        return f"status {state}"
    if "train resume=" not in done.stderr:
        return "no command that continues the run"
    return ""
