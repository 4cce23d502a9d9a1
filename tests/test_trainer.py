"""Every key of docs/trainer.md: it has the effect that the page states, or is refused by name."""

import inspect
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from omegaconf import DictConfig
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vae_lightning.checks.errors import ConfigError
from vae_lightning.compile import accelerate
from vae_lightning.config import describe, options
from vae_lightning.config.compose import compose
from vae_lightning.config.trainer_options import REFUSED_TRAINER_KEYS, TRAINER_OPTIONS
from vae_lightning.data import images
from vae_lightning.data.batches import Batch
from vae_lightning.data.images import ImageData
from vae_lightning.data.limits import group_ends
from vae_lightning.training.callbacks.progress import Progress
from vae_lightning.training.clipping import Clipping
from vae_lightning.training.experiment import run_experiment
from vae_lightning.training.module import VAE
from vae_lightning.training.signals import StopSignals

# 12 training batches of 120 images, 4 validation batches and 4 test batches of 50 images
SMALL = (
    "data=digits",
    "data.batch_size=120",
    "model.latent_dim=2",
    "model.hidden_dims=[8]",
    "callbacks=none",
    "accelerator=cpu",
    "trainer.max_epochs=2",
    "trainer.threads=1",
)
STEPS = 12
EARLY = (  # a callback that wants to stop after the first validation
    "+callbacks.early._target_=lightning.pytorch.callbacks.EarlyStopping",
    "+callbacks.early.monitor=val/neg_elbo",
    "+callbacks.early.stopping_threshold=1e9",
)


class Training:
    """A training in this process, and what was seen of it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run, self.monkeypatch = folder, monkeypatch
        self.seen: list[Batch] = []  # the training batches
        self.noise: list[torch.Tensor] = []
        self.validated: list[int] = []  # at which step each validation batch came
        monkeypatch.setattr(images, "EVALUATION_BATCH_SIZE", 50)
        self.watch("loss", lambda _, batch, *__: self.seen.append(batch))
        self.watch("evaluate", self.note_validation)
        draw = VAE.training_noise

        def noise(*arguments: object) -> torch.Tensor:
            self.noise.append(draw(*arguments))
            return self.noise[-1]

        monkeypatch.setattr(VAE, "training_noise", noise)

    def note_validation(self, module: VAE, _: Batch, split: str) -> None:
        if split == "val":
            self.validated.append(module.global_step)

    def watch(self, name: str, note: Callable[..., object]) -> None:
        """Calls ``note`` with the arguments of every call of a method of the module."""
        original = getattr(VAE, name)

        def watched(*arguments: object) -> object:
            note(*arguments)
            return original(*arguments)

        self.monkeypatch.setattr(VAE, name, watched)

    def __call__(self, *words: str) -> "Training":
        """Trains; may be called once."""
        cfg = compose("config", [*SMALL, *words])
        options.check(cfg)
        cfg.trust = True
        self.run.mkdir()

        @contextmanager
        def noted(
            cfg: DictConfig, trainer: Trainer, module: VAE, data: ImageData
        ) -> Iterator[None]:
            self.trainer, self.module, self.data = trainer, module, data
            with accelerate(cfg, trainer, module, data):
                yield

        with StopSignals() as stop:
            result = run_experiment(cfg, nullcontext(self.run), noted, stop, [])
        assert result is not None
        self.metrics, self.table = result.metrics, result.table
        self.rows = self.parts_rows()
        return self

    def parts_rows(self) -> list[dict[str, float]]:
        """The rows of metrics.csv without empty cells and times."""
        from vae_lightning.storage.files import read_csv

        return [
            {name: float(value) for name, value in row.items() if value and "second" not in name}
            for row in read_csv(self.run / "metrics.csv")
        ]

    def steps(self) -> list[float]:
        return [row["step"] for row in self.rows]


@pytest.fixture
def train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[Callable[..., Training]]:
    caplog.set_level(logging.INFO, "vae_lightning")
    trainings = []

    def start(*words: str) -> Training:
        with monkeypatch.context() as patch:
            trainings.append(Training(tmp_path / str(len(trainings)), patch))
            return trainings[-1](*words)

    handlers = logging.getLogger("vae_lightning").handlers[:]
    yield start
    assert logging.getLogger("vae_lightning").handlers == handlers
    torch.use_deterministic_algorithms(False)


Train = Callable[..., Training]
CHECKS: dict[str, Callable[[Train], object]] = {}
ELSEWHERE = {
    "devices": "test_distributed.py",
    "precision": "test_steps.py",
}


def checks(key: str) -> Callable[[Callable[[Train], object]], Callable[[Train], object]]:
    """Registers the test of a key."""

    def register(check: Callable[[Train], object]) -> Callable[[Train], object]:
        CHECKS[key] = check
        return check

    return register


@pytest.mark.parametrize("key", [key for key in TRAINER_OPTIONS if key not in ELSEWHERE])
def test_a_key_that_works_does_what_the_page_says(key: str, train: Train) -> None:
    CHECKS[key](train)


@pytest.mark.parametrize("key", REFUSED_TRAINER_KEYS)
def test_a_key_that_does_not_work_is_refused_with_the_reason(key: str) -> None:
    for word in (f"trainer.{key}=1", f"+trainer.{key}=1", f"++trainer.{key}=1"):
        with pytest.raises(ConfigError) as error:
            options.check(compose("config", [word]))
        assert str(error.value) == f"trainer.{key}: must not be given: {REFUSED_TRAINER_KEYS[key]}"


def test_the_page_lists_every_argument_of_the_trainer() -> None:
    assert describe.trainer_page() == describe.TRAINER_FILE.read_text()
    listed = {*TRAINER_OPTIONS, *REFUSED_TRAINER_KEYS}
    assert listed == {*inspect.signature(Trainer).parameters}
    assert len(listed) == len(TRAINER_OPTIONS) + len(REFUSED_TRAINER_KEYS)


@checks("max_epochs")
def _(train: Train) -> None:
    assert train("trainer.max_epochs=3").steps() == [STEPS, 2 * STEPS, 3 * STEPS]


@checks("min_epochs")
def _(train: Train) -> None:
    assert train(*EARLY).steps() == [STEPS]
    assert train(*EARLY, "trainer.min_epochs=2").steps() == [STEPS, 2 * STEPS]


@checks("min_steps")
def _(train: Train) -> None:
    calls = "trainer.steps_per_execution=4"
    assert train(*EARLY, "trainer.min_steps=15", calls).steps() == [STEPS, 16]


@checks("max_steps")
def _(train: Train) -> None:
    whole, stopped = train(), train("trainer.max_steps=17")
    assert stopped.rows[0] == whole.rows[0]
    last = stopped.rows[1]
    assert (last["step"], last["epoch"]) == (17, round(17 / STEPS, 6))
    assert last["val/neg_elbo"] not in (
        whole.rows[0]["val/neg_elbo"],
        whole.rows[1]["val/neg_elbo"],
    )
    assert stopped.validated[-1] == 17
    assert len(stopped.seen) == 17
    assert "stopped by trainer.max_steps at step 17, after 1.41667 of 2 epochs" in stopped.table
    assert f"resume={stopped.run} trainer.max_steps=-1" in stopped.table
    assert "stopped" not in whole.table


@checks("max_time")
def _(train: Train) -> None:
    stopped = train("trainer.max_time=00:00:00:01", "trainer.max_epochs=100000")
    assert "stopped by trainer.max_time at step" in stopped.table
    assert f"resume={stopped.run} trainer.max_time=null" in stopped.table
    assert 0.9 < stopped.metrics["training_seconds"] < 60


@checks("fast_dev_run")
def _(train: Train) -> None:
    tried = train("trainer.fast_dev_run=2")
    assert (tried.steps(), len(tried.seen), len(tried.validated)) == ([2], 2, 2)
    assert tried.metrics["test_images"] == 100
    assert train("trainer.fast_dev_run=true").metrics["test_images"] == 50


@checks("limit_train_batches")
def _(train: Train) -> None:
    for amount, batches in (("5", 5), ("0.25", 3), ("1000", 12), ("1.0", 12)):
        limited = train(f"trainer.limit_train_batches={amount}", "trainer.steps_per_execution=2")
        assert limited.steps() == [batches, 2 * batches]
        assert len(limited.seen) == 2 * batches


@checks("limit_val_batches")
def _(train: Train) -> None:
    assert train().validated == 4 * [STEPS] + 4 * [2 * STEPS]
    assert train("trainer.limit_val_batches=3").validated == 3 * [STEPS] + 3 * [2 * STEPS]
    assert len(train("trainer.limit_val_batches=0.5").validated) == 4
    none = train("trainer.limit_val_batches=0")
    assert none.validated == []
    assert not any(name.startswith("val/") for row in none.rows for name in row)


@checks("limit_test_batches")
def _(train: Train) -> None:
    limited, whole = train("trainer.limit_test_batches=1"), train()
    assert (limited.metrics["test_images"], whole.metrics["test_images"]) == (50, 179)
    assert limited.metrics["test/loss"] != whole.metrics["test/loss"]
    assert limited.module.sums["test"].finished_images == 50
    assert "50 of 179 test" in limited.table


@checks("overfit_batches")
def _(train: Train) -> None:
    over = train("trainer.overfit_batches=2")
    assert [batch.index.tolist() for batch in over.seen] == 2 * [
        list(range(120)),
        list(range(120, 240)),
    ]
    assert over.validated == [2, 2, 4, 4]
    assert over.metrics["test_images"] == 179


@checks("check_val_every_n_epoch")
def _(train: Train) -> None:
    every = train("trainer.check_val_every_n_epoch=2", "trainer.max_epochs=3")
    assert ["val/neg_elbo" in row for row in every.rows] == [False, True, False]
    assert every.metrics["epoch"] == 2
    assert every.rows[1] == train().rows[1]


@checks("val_check_interval")
def _(train: Train) -> None:
    whole = train()
    for interval, steps in (("5", [5, 10, 12]), ("0.5", [6, 12])):
        for calls in ("1", "2", "16"):
            often = train(
                f"trainer.val_check_interval={interval}", f"trainer.steps_per_execution={calls}"
            )
            assert often.steps() == [*steps, *(STEPS + step for step in steps)]
            with_validation = [row["step"] for row in often.rows if "val/loss" in row]
            assert [*dict.fromkeys(often.validated)] == with_validation
            assert with_validation == [
                step for step in often.steps() if interval == "0.5" or step % STEPS
            ]
            ends = [row for row in often.rows if "train/loss" in row]
            assert [row["train/loss"] for row in ends] == [row["train/loss"] for row in whole.rows]
            assert [row["epoch"] for row in ends] == [1, 2]


@checks("num_sanity_val_steps")
def _(train: Train) -> None:
    whole = train()
    for number, tried in (("2", 2), ("-1", 4)):
        sane = train(f"trainer.num_sanity_val_steps={number}")
        assert sane.validated == tried * [0] + whole.validated
        assert sane.rows == whole.rows


@checks("accumulate_grad_batches")
def _(train: Train) -> None:
    parts = train("trainer.accumulate_grad_batches=5")
    assert parts.steps() == [3, 6]
    assert len(parts.seen) == 2 * STEPS
    first, *others = parts.noise[:5]
    assert torch.equal(first, train().noise[0])
    assert not any(torch.equal(first[:, :10], other[:, :10]) for other in others)


@checks("gradient_clip_val")
def _(train: Train) -> None:
    clipped, whole = train("trainer.gradient_clip_val=0.001", "optimizer.eps=1"), train()
    moved = [
        sum(
            float((a - b).detach().norm())
            for a, b in zip(run.module.parameters(), start, strict=True)
        )
        for run in (clipped, whole)
        for start in [[*untrained().parameters()]]
    ]
    assert moved[0] < 0.01 * moved[1]


def untrained() -> VAE:
    """The module before its training."""
    from vae_lightning.training.assembly import build_module

    cfg = compose("config", [*SMALL])
    cfg.trust = True
    return build_module(cfg)


@checks("gradient_clip_algorithm")
def _(train: Train) -> None:
    value = ("trainer.gradient_clip_val=0.01", "trainer.gradient_clip_algorithm=value")
    assert train(*value).rows != train("trainer.gradient_clip_val=0.01").rows


@checks("log_every_n_steps")
def _(train: Train) -> None:
    events = EventAccumulator(str(train("trainer.log_every_n_steps=5").run / "tensorboard"))
    assert [event.step for event in events.Reload().Scalars("train/loss_step")] == [4, 9, 14, 19]
    for calls in ("1", "16"):
        every = train("trainer.log_every_n_steps=1", f"trainer.steps_per_execution={calls}")
        found = EventAccumulator(str(every.run / "tensorboard")).Reload()
        losses = [event.value for event in found.Scalars("train/loss_step")][:STEPS]
        sizes = [len(batch.index) for batch in every.seen[:STEPS]]
        mean = sum(math.prod(pair) for pair in zip(losses, sizes, strict=True)) / sum(sizes)
        assert mean == pytest.approx(every.rows[0]["train/loss"], rel=1e-6)
        assert every.rows == train().rows


@checks("profiler")
def _(train: Train) -> None:
    for name in ("simple", "advanced", "pytorch"):
        files = [*(train(f"trainer.profiler={name}").run / "profile").iterdir()]
        text = "".join(path.read_text() for path in files if path.suffix == ".txt")
        assert ("aten::" if name == "pytorch" else "training_step") in text, name


@checks("deterministic")
def _(train: Train) -> None:
    train("trainer.deterministic=true")
    assert torch.are_deterministic_algorithms_enabled()
    train("trainer.deterministic=warn")
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    train()
    assert not torch.are_deterministic_algorithms_enabled()


@checks("detect_anomaly")
def _(train: Train) -> None:
    with pytest.raises(RuntimeError, match="Backward0' returned nan values"):
        train("trainer.detect_anomaly=true", "optimizer.lr=1e30")


@checks("default_root_dir")
def _(_: Train) -> None:
    cfg = compose("config", ["trainer.default_root_dir=a folder/=x"])
    assert str(cfg.hydra.run.dir).startswith("a folder/=x/20")
    assert str(cfg.hydra.sweep.dir).startswith("a folder/=x/sweeps/20")


@checks("enable_progress_bar")
def _(train: Train) -> None:
    for value, shown in (("true", True), ("false", False)):
        callbacks = train(f"trainer.enable_progress_bar={value}").trainer.callbacks
        assert any(isinstance(each, Progress) for each in callbacks) == shown


@checks("enable_model_summary")
def _(train: Train) -> None:
    for value, shown in (("true", True), ("false", False)):
        text = (train(f"trainer.enable_model_summary={value}").run / "train.log").read_text()
        assert ("Trainable params" in text) == shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("trainer.gradient_clip_val=-1", "gradient_clip_val=-1: must be null or a finite number >"),
        ("trainer.gradient_clip_algorithm=value", "requires trainer.gradient_clip_val"),
        ("trainer.gradient_clip_val=1 trainer.precision=16-mixed", "requires trainer.precision="),
        (
            "trainer.overfit_batches=1 trainer.limit_train_batches=2",
            "limit_train_batches=2: must not",
        ),
        ("trainer.overfit_batches=1 trainer.limit_val_batches=2", "limit_val_batches=2: must not"),
        ("trainer.fast_dev_run=true trainer.max_steps=5", "trainer.max_steps=5: must not be given"),
        ("trainer.max_time=1:00", "trainer.max_time=1:00: must be null or a time as DD:HH:MM:SS"),
        ("trainer.max_time=00:00:00:00", "must be null or a time"),
        ("trainer.min_epochs=3", "trainer.min_epochs=3: must be at most trainer.max_epochs=2"),
        ("trainer.min_steps=9 trainer.max_steps=8", "trainer.min_steps=9: must be at most"),
        ("trainer.limit_train_batches=0", "limit_train_batches=0: must be null or"),
        ("trainer.limit_val_batches=1.5", "limit_val_batches=1.5: must be null or"),
        ("trainer.profiler=xla", "trainer.profiler=xla: must be one of simple"),
        ("trainer.val_check_interval=13", "val_check_interval=13: must be at most 12"),
        ("trainer.val_check_interval=5 trainer.accumulate_grad_batches=2", "must be a multiple"),
        ("trainer.limit_train_batches=0.01", "limit_train_batches=0.01: must be at least 0.083"),
        ("trainer.max_steps=25", "trainer.max_steps=25: must be at most 24, the steps of 2 epochs"),
        ("trainer.min_steps=25", "must be at most the 24 steps of the run"),
    ],
)
def test_wrong_values_are_refused_before_there_is_a_folder(
    words: str, message: str, train: Train, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as error:
        train(*words.split())
    assert message in str(error.value)
    assert not [*tmp_path.rglob("*.*")]


@pytest.mark.parametrize("norm", ["norm", "value"])
@pytest.mark.parametrize("limit", [1e-3, 0.5, 1e6])
def test_clipping_is_that_of_pytorch(norm: str, limit: float) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (4,), (2, 2, 2)]
    values = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    parameters = [torch.nn.Parameter(torch.zeros_like(value)) for value in values]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.grad = value.clone()
    clip = getattr(torch.nn.utils, f"clip_grad_{norm}_")
    clip(parameters, limit)
    for found, parameter in zip(Clipping(limit, norm).clipped(values), parameters, strict=True):
        assert torch.equal(found, parameter.grad)


def test_groups_cover_the_epoch_and_lightning_validates_at_the_multiples_only() -> None:
    for count in range(1, 30):
        for size in (1, 2, 5, 16):
            for interval in range(1, count + 1):
                ends = group_ends(count, size, interval)
                assert ends == sorted({*ends})
                assert ends[-1] == count
                calls = ends.index(interval) + 1
                validated = ends[calls - 1 :: calls]
                assert validated == list(range(interval, count + 1, interval))
