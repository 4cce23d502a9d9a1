"""Random streams and learning-rate schedules."""

import copy
import io
import math
from collections.abc import Callable

import pytest
import torch

from helpers import loss_of, tiny, tiny_model
from vae_lightning import rng
from vae_lightning.checks.errors import ConfigError
from vae_lightning.config.class_table import OPTIMIZERS, SCHEDULERS
from vae_lightning.training.assembly import build_module
from vae_lightning.training.schedulers import Schedule


def test_a_stream_depends_on_its_name_alone() -> None:
    first = rng.normal((4, 5), "cpu", 0, "noise", 0, 7)
    torch.randn(100)
    assert torch.equal(first, rng.normal((4, 5), "cpu", 0, "noise", 0, 7))


@pytest.mark.parametrize(
    "other", [(1, "noise", 0, 7), (0, "noise", 1, 7), (0, "noise", 0, 8), (0, "pixels", 0, 7)]
)
def test_seed_rank_step_and_name_each_change_the_stream(other: tuple[int, str, int, int]) -> None:
    first, second = (
        rng.normal((10_000,), "cpu", 0, "noise", 0, 7),
        rng.normal((10_000,), "cpu", *other),
    )
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 5 / math.sqrt(10_000)


BASE, STEPS_OF_EPOCH, EPOCHS = 2.0, 5, 6
STEPS = STEPS_OF_EPOCH * EPOCHS
# the validation value that each epoch ends with
VALUES = (9.0, 8.0, 8.0, 8.0, 8.0, 8.0)
ONE_CYCLE = "scheduler=one_cycle", "scheduler.pct_start=0.5", "scheduler.final_div_factor=4"


def schedule_of(
    *overrides: str, epochs: int = EPOCHS
) -> tuple[torch.optim.Optimizer, Schedule | None]:
    """The optimizer and the schedule of a configuration, with a learning rate of BASE."""
    cfg = tiny(*overrides)
    cfg.optimizer.lr = BASE
    module = build_module(cfg)
    optimizer = module.make_optimizer(module.parameters())
    if module.make_scheduler is None:
        return optimizer, None
    steps = epochs * STEPS_OF_EPOCH
    return optimizer, module.make_scheduler(optimizer, total_steps=steps, epochs=epochs)


def rates_of(
    optimizer: torch.optim.Optimizer, schedule: Schedule, steps: range, skipped_epochs: int = 0
) -> list[float]:
    """The learning rate / BASE of these steps; the last one is not taken."""
    found = []
    for step in steps:
        found.append(optimizer.param_groups[0]["lr"] / BASE)
        if step < steps[-1]:
            optimizer.step()
            schedule.step()
            if (step + 1) % STEPS_OF_EPOCH == 0:
                schedule.end_epoch(VALUES[step // STEPS_OF_EPOCH + skipped_epochs])
    return found


def one_cycle(t: int) -> float:
    """From 1/25 to 1 and to 1/100 by half cosines; PyTorch ends at step T - 1, not at T."""
    top, last = 0.5 * STEPS - 1, STEPS - 1
    start, end, done = (1 / 25, 1, t / top) if t <= top else (1, 1 / 100, (t - top) / (last - top))
    return end + (start - end) / 2 * (1 + math.cos(math.pi * done))


# overrides -> the learning rate / optimizer.lr of step t, given the number of finished epochs e
CLOSED_FORMS: dict[tuple[str, ...], Callable[[int, int], float]] = {
    ("scheduler=cosine", "scheduler.final=0.1"): lambda t, _: (
        0.1 + 0.45 * (1 + math.cos(math.pi * t / STEPS))
    ),
    ("scheduler=cosine", "scheduler.interval=epoch"): lambda _, e: (
        (1 + math.cos(math.pi * e / EPOCHS)) / 2
    ),
    ("scheduler=linear", "scheduler.final=0.2"): lambda t, _: 1 - 0.8 * t / STEPS,
    ("scheduler=step", "scheduler.step_size=2"): lambda _, e: 0.1 ** (e // 2),
    ("scheduler=step", "scheduler.step_size=7", "scheduler.interval=step"): lambda t, _: (
        0.1 ** (t // 7)
    ),
    ("scheduler=exponential", "scheduler.gamma=0.9"): lambda _, e: 0.9**e,
    ("scheduler=exponential", "scheduler.interval=step"): lambda t, _: 0.95**t,
    # the epochs 2 to 4 do not improve on the epoch 1; after the third of them the rate is halved
    ("scheduler=plateau", "scheduler.patience=2"): lambda _, e: 1.0 if e < 5 else 0.5,
    ONE_CYCLE: lambda t, _: one_cycle(min(t, STEPS - 1)),
    ("scheduler=torch",): lambda t, _: 1 / 3 if t < 5 else 1.0,
    ("scheduler=torch", "scheduler.name=LinearLR", "scheduler.end_factor=0.5"): lambda t, _: (
        1 / 3 + (0.5 - 1 / 3) * min(t, 5) / 5
    ),
}


@pytest.mark.parametrize("overrides", CLOSED_FORMS, ids=" ".join)
def test_the_learning_rate_of_every_step_has_its_closed_form(overrides: tuple[str, ...]) -> None:
    optimizer, schedule = schedule_of(*overrides)
    expected = [CLOSED_FORMS[overrides](t, t // STEPS_OF_EPOCH) for t in range(STEPS)]
    assert rates_of(optimizer, schedule, range(STEPS)) == pytest.approx(expected)


@pytest.mark.parametrize("overrides", [*CLOSED_FORMS, ("scheduler=constant",)], ids=" ".join)
def test_every_schedule_begins_after_its_warm_up(overrides: tuple[str, ...]) -> None:
    warm_up = STEPS_OF_EPOCH
    optimizer, schedule = schedule_of(*overrides, f"scheduler.warmup_steps={warm_up}")
    found = rates_of(optimizer, schedule, range(STEPS))
    first = schedule.first_rates[0] / BASE
    assert found[:warm_up] == pytest.approx(
        [first * (t + 1) / (warm_up + 1) for t in range(warm_up)]
    )
    optimizer, schedule = schedule_of(*overrides, epochs=EPOCHS - 1)
    rest = [1.0] * (STEPS - warm_up)
    if schedule is not None:
        rest = rates_of(optimizer, schedule, range(STEPS - warm_up), skipped_epochs=1)
    assert found[warm_up:] == pytest.approx(rest)


@pytest.mark.parametrize("overrides", CLOSED_FORMS, ids=" ".join)
@pytest.mark.parametrize("at", [2, 12])
def test_a_resumed_schedule_continues_bit_for_bit(overrides: tuple[str, ...], at: int) -> None:
    overrides += ("scheduler.warmup_steps=4",)
    expected = rates_of(*schedule_of(*overrides), range(STEPS))
    optimizer, schedule = schedule_of(*overrides)
    assert rates_of(optimizer, schedule, range(at + 1)) == expected[: at + 1]
    saved = copy.deepcopy((optimizer.state_dict(), schedule.state_dict()))
    with io.BytesIO() as file:
        torch.save(saved, file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
    optimizer, schedule = schedule_of(*overrides)
    optimizer.load_state_dict(saved[0])
    schedule.load_state_dict(saved[1])
    assert rates_of(optimizer, schedule, range(at, STEPS)) == expected[at:]


@pytest.mark.parametrize("name", ["cosine", "linear", "one_cycle"])
def test_a_run_that_is_resumed_with_more_epochs_continues_on_the_longer_curve(name: str) -> None:
    optimizer, schedule = schedule_of(f"scheduler={name}")
    rates_of(optimizer, schedule, range(STEPS))
    saved = optimizer.state_dict(), schedule.state_dict()
    expected = rates_of(*schedule_of(f"scheduler={name}", epochs=2 * EPOCHS), range(STEPS + 3))
    optimizer, schedule = schedule_of(f"scheduler={name}", epochs=2 * EPOCHS)
    optimizer.load_state_dict(saved[0])
    schedule.load_state_dict(saved[1])
    found = rates_of(optimizer, schedule, range(STEPS - 1, STEPS + 3))
    assert found[1:] == pytest.approx(expected[-3:])


def test_every_optimizer_of_torch_moves_the_weights_or_is_refused() -> None:
    found = {name for name, each in vars(torch.optim).items() if isinstance(each, type)} - {
        "Optimizer"
    }
    assert set(OPTIMIZERS) >= found  # an older PyTorch has fewer
    for name in sorted(found):
        cfg = tiny("optimizer=torch", f"optimizer.name={name}")
        if name in ("LBFGS", "Muon", "SparseAdam"):
            with pytest.raises(ConfigError, match=r"^optimizer"):
                build_module(cfg)
            continue
        model, x, condition = tiny_model(cfg)
        before = copy.deepcopy(model.state_dict())
        optimizer = model.make_optimizer(model.parameters())
        assert type(optimizer).__name__ == name
        loss_of(model, x, condition).backward()
        optimizer.step()
        assert any(not torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_every_scheduler_of_torch_is_listed_or_needs_functions_or_schedulers() -> None:
    needs = {"LambdaLR", "MultiplicativeLR", "SequentialLR", "ChainedScheduler", "LRScheduler"}
    assert set(torch.optim.lr_scheduler.__all__) == needs | set(SCHEDULERS)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ("optimizer.momentum=0.9",),
            "optimizer.momentum: must not be given, because Adam takes lr",
        ),
        (("optimizer=torch", "optimizer.nesterov=true"), "optimizer: Nesterov momentum requires"),
        (
            ("scheduler=plateau", "scheduler.interval=step"),
            "scheduler.interval=step: must be epoch",
        ),
        (("scheduler=torch", "scheduler.name=StepLR"), "scheduler: .*'step_size'"),
        (
            ("scheduler=cosine", "scheduler.step_size=3"),
            "scheduler.step_size: must not be given, because Cosine takes final",
        ),
        (("scheduler.gamma=0.5",), "scheduler.gamma: no such key of scheduler=constant"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(overrides: tuple[str, ...], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as error:
        build_module(tiny(*overrides))
    assert "\n" not in str(error.value)
