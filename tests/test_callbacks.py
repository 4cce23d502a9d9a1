"""Callbacks: averages of the weights, early stopping, checkpoints, and those of Lightning."""

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import callbacks as lightning_callbacks

from helpers import Command, assert_same_run, tiny, tiny_model, train_run
from vae_lightning.checks.errors import ConfigError
from vae_lightning.compile.direct import DirectStep
from vae_lightning.config import options
from vae_lightning.config.callback_table import PACKAGE, REFUSED, WORKING
from vae_lightning.config.compose import compose
from vae_lightning.data.batches import Batch
from vae_lightning.objectives import IWAE, Terms, iwae
from vae_lightning.training.callbacks.averaging import EMA, SWA, TRAINED
from vae_lightning.training.callbacks.checkpoints import Checkpoints
from vae_lightning.training.callbacks.early_stopping import EarlyStopping
from vae_lightning.training.module import VAE
from vae_lightning.training.trainer import needs_every_step

SMALL = (
    "data=digits",
    "data.val_size=200",
    "model.latent_dim=2",
    "model.hidden_dims=[8]",
    "callbacks=none",
    "accelerator=cpu",
    "trainer.threads=1",
)
# the arguments that a callback of Lightning requires, or with which it acts within two epochs
ARGUMENTS = {
    "EMAWeightAveraging": ["decay=0.5"],
    "EarlyStopping": ["monitor=val/loss"],
    "GradientAccumulationScheduler": ["scheduling={0:2}"],
    "OnExceptionCheckpoint": ["dirpath=exceptions"],
    "StochasticWeightAveraging": ["swa_lrs=1e-2", "swa_epoch_start=1"],
    "Timer": ["duration={hours:1}"],
}


class Weight(torch.nn.Module):
    """A module with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))


def planted(average: EMA | SWA, values: list[float], epoch_steps: int = 1) -> list[float]:
    """The average after each of these values of the weight, which is 0 at first."""
    module, found = Weight(), []
    average.on_fit_start(None, module)
    for step, value in enumerate(values, 1):
        with torch.no_grad():
            module.weight.fill_(value)
        average.count_step(module, step)
        trainer = SimpleNamespace(
            is_last_batch=step % epoch_steps == 0,
            current_epoch=(step - 1) // epoch_steps,
            global_step=step,
        )
        average.on_train_batch_end(trainer, module, None, None, step)
        found.append(float(average.average[0]))
    return found


def test_the_moving_average_has_its_closed_form() -> None:
    values = [1.0, 2.0, 4.0, 8.0]
    d = 0.9
    expected = [
        sum((1 - d) * d ** (t - k) * values[k] for k in range(t + 1)) for t in range(len(values))
    ]
    assert planted(EMA(d, 1), values) == pytest.approx(expected)
    # every second step, with the decay of two steps
    a = (1 - d**2) * 2.0
    assert planted(EMA(d, 2), values) == pytest.approx([0, a, a, d**2 * a + (1 - d**2) * 8.0])


def test_the_mean_of_epochs_has_its_closed_form() -> None:
    values = [1.0, 2.0, 3.0, 5.0, 7.0, 11.0]
    found = planted(SWA(2), values, epoch_steps=2)
    assert found == pytest.approx([0, 2, 2, 5, 5, (5 + 11) / 2])


def test_validation_and_checkpoints_use_the_average() -> None:
    module, average = Weight(), EMA(0.5, 1)
    average.on_fit_start(None, module)
    with torch.no_grad():
        module.weight.fill_(4)
    average.count_step(module, 1)
    average.on_validation_start(None, module)
    assert module.weight.item() == 2
    average.on_validation_end(None, module)
    assert module.weight.item() == 4
    checkpoint = {"state_dict": module.state_dict()}
    average.on_save_checkpoint(None, module, checkpoint)
    assert float(checkpoint["state_dict"]["weight"]) == 2
    assert float(checkpoint[TRAINED]["weight"]) == 4
    assert set(checkpoint["state_dict"]) == set(module.state_dict())


def test_early_stopping_does_not_count_validations_of_the_annealing() -> None:
    module, _, _ = tiny_model(tiny("objective=iwae", "annealing=linear", "annealing.steps=20"))
    stopping = EarlyStopping(patience=2, min_delta=1.0)
    strategy = SimpleNamespace(reduce_boolean_decision=lambda value, **_: value)
    trainer = SimpleNamespace(
        val_check_interval=1.0,
        check_val_every_n_epoch=1,
        state=SimpleNamespace(fn="fit"),
        sanity_checking=False,
        fast_dev_run=False,
        should_stop=False,
        strategy=strategy,
    )
    stopping.setup(trainer, module, "fit")
    assert stopping.monitor == "val/neg_iwae"
    stopped = []
    # two epochs of 10 steps do not count; 4.5 is no improvement of 1 over 5, and 3 is one
    for epoch, value in enumerate([1.0, 5.0, 4.5, 3.0, 3.0, 2.5]):
        trainer.global_step, trainer.current_epoch = 10 * (epoch + 1), epoch
        trainer.callback_metrics = {"val/neg_iwae": torch.tensor(value)}
        stopping.on_validation_end(trainer, module)
        stopped.append(trainer.should_stop)
    assert stopped == [False] * 5 + [True]
    assert stopping.stopping_reason_message == (
        "val/neg_iwae has not improved on 3.000 for 2 validations"
    )
    trainer.should_stop = False
    resumed = EarlyStopping(patience=2, min_delta=1.0)
    resumed.load_state_dict(stopping.state_dict())
    resumed.on_train_start(trainer, module)
    assert trainer.should_stop


@pytest.mark.parametrize(
    ("every", "top_k", "expected"), [(1, None, [1, 2, 3, 4]), (2, None, [2, 4]), (1, 2, [3, 1])]
)
def test_the_checkpoints_of_some_epochs_are_kept(
    tmp_path: Path, every: int, top_k: int | None, expected: list[int]
) -> None:
    rows = [{"epoch": n, "val/x": value} for n, value in enumerate([2.0, 4.0, 1.0, 3.0], 1)]
    checkpoints = Checkpoints(every, top_k)
    assert checkpoints.kept(rows, "val/x") == expected
    for number in range(1, 5):
        source = tmp_path / "source"
        source.write_text(str(number))
        checkpoints.keep(source, rows[:number], "val/x")
        source.unlink()
    found = {path.name: path.read_text() for path in tmp_path.glob("epoch-*.ckpt")}
    assert found == {f"epoch-{number}.ckpt": str(number) for number in expected}


def test_every_callback_of_lightning_works_or_is_refused() -> None:
    assert {*WORKING, *REFUSED} == set(lightning_callbacks.__all__)
    assert not {*WORKING} & {*REFUSED}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_callback_says_why(name: str) -> None:
    cfg = compose("config", [f"+callbacks.mine._target_={PACKAGE}.{name}"])
    with pytest.raises(ConfigError, match=rf"^callbacks.mine._target_={PACKAGE}.{name}: ") as error:
        options.check(cfg)
    assert REFUSED[name] in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKING)
def test_a_working_callback_trains_a_run(train: Command, tmp_path: Path, name: str) -> None:
    if name == "DeviceStatsMonitor":
        pytest.importorskip("psutil")
    words = [f"+callbacks.mine.{argument}" for argument in ARGUMENTS.get(name, [])]
    target = f"+callbacks.mine._target_={PACKAGE}.{name}"
    run = train_run(train, tmp_path, None, *SMALL, target, *words, "trainer.max_epochs=2")
    metrics = json.loads((run / "metrics.json").read_text())
    stored = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    averaged = name in ("EMAWeightAveraging", "StochasticWeightAveraging", "WeightAveraging")
    assert metrics["averaged_by"] == (name if averaged else None)
    assert all(not key.startswith(("module.", "_orig_mod.")) for key in stored["state_dict"])
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    if name == "ModelCheckpoint":
        assert len(list((run / "checkpoints").glob("epoch=1-*.ckpt"))) == 1
    if name == "GradientAccumulationScheduler":
        assert int(rows[-1]["step"]) == 12  # 24 batches
    if name == "StochasticWeightAveraging":  # the average of the weights after epoch 1 only
        last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        assert any(not torch.equal(last[key], value) for key, value in stored["state_dict"].items())
        assert metrics["val/neg_elbo"] != float(rows[-1]["val/neg_elbo"])


@pytest.mark.slow
def test_averaged_runs_resume_bit_for_bit_and_test_the_average(
    train: Command, tmp_path: Path
) -> None:
    words = (*SMALL, "callbacks=[ema,swa]")
    done = train(*words, "hydra.run.dir=both", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: callbacks: must average the weights once, not by EMA and SWA; choose ema or swa"
    )
    assert not (tmp_path / "both").exists()
    plain = train_run(train, tmp_path, None, *SMALL, "trainer.max_epochs=4", name="plain")
    for name, word in (("ema", "callbacks.ema.decay=0.9"), ("swa", "callbacks.swa.start_epoch=2")):
        words = (*SMALL, f"callbacks=[{name},lr_monitor,checkpoints]", word)
        whole = train_run(train, tmp_path, None, *words, "trainer.max_epochs=4", name=name)
        train_run(train, tmp_path, None, *words, "trainer.max_epochs=2", name=f"{name}-resumed")
        done = train(f"resume={name}-resumed", "trainer.max_epochs=4", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert_same_run(whole, tmp_path / f"{name}-resumed")
        one, other = (
            torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
            for run in (plain, whole)
        )
        # the training is that of a run without an average; what is stored is the average
        for key, value in one["state_dict"].items():
            assert torch.equal(other[TRAINED][key], value)
        assert list(one["state_dict"]) == list(other["state_dict"])
        assert any(
            not torch.equal(other["state_dict"][key], value)
            for key, value in one["state_dict"].items()
        )
        metrics = json.loads((whole / "metrics.json").read_text())
        before = json.loads((plain / "metrics.json").read_text())
        assert metrics["test/neg_elbo"] != before["test/neg_elbo"]
        assert metrics["averaged_by"] == name.upper()


@pytest.mark.slow
def test_a_run_that_stops_early_says_when_and_why(train: Command, tmp_path: Path) -> None:
    words = (
        *SMALL,
        "callbacks=[early_stopping]",
        "callbacks.early_stopping.min_delta=1e6",
        "callbacks.early_stopping.patience=2",
        "trainer.max_epochs=9",
        "hydra.run.dir=run",
    )
    done = train(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    reason = "stopped by EarlyStopping at step 36, after 3 of 9 epochs: val/neg_elbo"
    assert metrics["stopped"].startswith(reason)
    assert metrics["stopped"] in done.stdout
    assert metrics["stopped"] in (tmp_path / "run" / "train.log").read_text()
    # a run that is killed after it has stopped does not go on
    (tmp_path / "run" / "status.json").write_text(json.dumps({"state": "interrupted"}))
    shutil.copytree(tmp_path / "run", tmp_path / "killed")
    done = train("resume=killed", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "run", tmp_path / "killed")


def test_a_callback_of_this_package_leaves_the_fast_path() -> None:
    chosen = [EMA(0.9, 1), SWA(1), Checkpoints(1, None), EarlyStopping(1, 0.0)]
    assert not any(needs_every_step(callback) for callback in chosen)
    other = [
        lightning_callbacks.GradientAccumulationScheduler({0: 2}),
        lightning_callbacks.StochasticWeightAveraging(1e-3),
    ]
    assert all(needs_every_step(callback) for callback in other)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ("callbacks=early_stopping data.val_size=0", "data.val_size=0: must be above 0"),
        ("scheduler=plateau data.val_size=0", "data.val_size=0: must be above 0"),
        (
            f"+callbacks.mine._target_={PACKAGE}.GradientAccumulationScheduler scheduler=cosine",
            "scheduler=cosine: must be constant for callbacks.mine._target_=",
        ),
        ("callbacks=ema callbacks.ema.decay=1", "callbacks.ema.decay=1: must be"),
        ("trainer.skip_gradient_above=0", "trainer.skip_gradient_above=0: must be"),
        (
            "trainer.skip_gradient_above=1 trainer.precision=16-mixed",
            "trainer.skip_gradient_above=1: requires trainer.precision",
        ),
    ],
)
def test_what_does_not_fit_is_refused(overrides: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        options.check(compose("config", overrides.split()))


def test_the_bound_of_iwae_selects_at_beta_1() -> None:
    model, x, condition = tiny_model(tiny("objective=iwae", "objective.beta=0.5"))
    terms = model(x, torch.randn(5, 6, 2), condition)
    assert isinstance(terms, Terms)
    objective = model.objective
    assert isinstance(objective, IWAE)
    assert torch.equal(objective.bound(terms), iwae(terms, beta=1.0))
    assert not torch.equal(objective.bound(terms), objective(terms, 0))
    assert model.selected_by == "neg_iwae"
    assert tiny_model(tiny("objective=tc"))[0].selected_by == "neg_elbo"


@pytest.mark.slow
def test_the_best_epoch_of_iwae_has_the_lowest_bound(train: Command, tmp_path: Path) -> None:
    words = ("objective=iwae", "trainer.max_epochs=3", "optimizer.lr=0.02")
    run = train_run(train, tmp_path, None, *SMALL, *words)
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    metrics = json.loads((run / "metrics.json").read_text())
    best = min(rows, key=lambda row: float(row["val/neg_iwae"]))
    assert metrics["epoch"] == int(best["epoch"])
    assert metrics["selected_by"] == "val/neg_iwae"
    # with beta = 1 the loss is the bound, which is below the negative ELBO
    assert metrics["val/neg_iwae"] == pytest.approx(metrics["val/loss"], rel=1e-6)
    assert metrics["test/neg_iwae"] < metrics["test/neg_elbo"]


@pytest.mark.parametrize("step", ["plain", "direct"])
def test_steps_with_a_large_gradient_are_skipped_and_counted(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VAE, "global_step", property(lambda model: model.counted))
    monkeypatch.setattr(VAE, "current_epoch", property(lambda _: 0))
    cfg = tiny("trainer.skip_gradient_above=1000000000.0")
    model, x, _ = tiny_model(cfg)
    optimizer = model.train().make_optimizer(model.parameters())
    batch = Batch(x, torch.arange(6), 6)
    take_step = model.take_step if step == "plain" else DirectStep(model)
    model.counted = 0
    take_step(batch, optimizer, 0)
    assert model.skipped_steps == 0
    gradients = torch.autograd.grad(model.loss(batch, 1), [*model.parameters()])
    norm = float(torch.cat([each.flatten() for each in gradients]).norm())
    before = [value.clone() for value in model.parameters()]
    moments = [state["exp_avg"].clone() for state in optimizer.state.values()]
    model.skip_gradient_above = 0.999 * norm
    take_step(batch, optimizer, 1)
    assert model.skipped_steps == 1
    for value, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(value, old)
    for state, old in zip(optimizer.state.values(), moments, strict=True):
        assert torch.equal(state["exp_avg"], old)
        assert state["step"] == 1
    model.skip_gradient_above = 1.001 * norm
    take_step(batch, optimizer, 1)
    assert model.skipped_steps == 1
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


@pytest.mark.slow
def test_skipped_steps_are_the_same_whoever_takes_the_steps(train: Command, tmp_path: Path) -> None:
    words = (*SMALL, "trainer.skip_gradient_above=1", "trainer.max_epochs=2")
    fast = train_run(train, tmp_path, None, *words, name="fast")
    target = f"+callbacks.mine._target_={PACKAGE}.LearningRateMonitor"
    slow = train_run(train, tmp_path, None, *words, target, name="slow")
    counts = [
        json.loads((run / "metrics.json").read_text())["skipped_steps"] for run in (fast, slow)
    ]
    assert counts == [24, 24]  # all of them
    train_run(train, tmp_path, None, *words[:-1], "trainer.max_epochs=1", name="part")
    assert train("resume=part", "trainer.max_epochs=2", cwd=tmp_path).returncode == 0
    assert_same_run(fast, tmp_path / "part")
