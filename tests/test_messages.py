"""The words of messages: what was typed, what is allowed, and what is meant."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from vae_lightning import sweep
from vae_lightning.checks.errors import ConfigError, Interrupted, decimals
from vae_lightning.checks.ranges import AnyOf, Choice, Integer
from vae_lightning.cli.arguments import program_arguments
from vae_lightning.cli.command import ConsoleHandler, console
from vae_lightning.config import options
from vae_lightning.config.compose import compose, unknown_key
from vae_lightning.config.launcher_options import merged_options
from vae_lightning.plots.gallery import describe_active
from vae_lightning.runs.stored import require_run
from vae_lightning.sample import grid
from vae_lightning.storage.files import write_json
from vae_lightning.storage.run_folder import recorded
from vae_lightning.sweeps.display import Display, Entry
from vae_lightning.sweeps.launchers.slots import Slots
from vae_lightning.sweeps.plan import Job, read_typed
from vae_lightning.sweeps.start import first_line
from vae_lightning.training.trainer import build_tester, make_trainer, trainer_arguments

MESSAGES = {
    "callbacks=[default,earlystopping]": "callbacks=earlystopping: must be one of checkpoints, "
    "default, early_stopping, ema, lr_monitor, none, ppca, swa; did you mean"
    " callbacks=early_stopping?",
    "objective=iwae objective.k=5": "objective.k: no such key; objective=iwae has"
    " objective.num_samples, objective.gradient, objective.beta",
    "scheduler.foo=1": "scheduler.foo: no such key; scheduler=constant has scheduler.warmup_steps",
    "scheduler=plateau data.val_size=0": "data.val_size=0: must be above 0 for scheduler=plateau,"
    " which follows a value of the validation images",
    "logger=[tensorboard,none]": "logger=[tensorboard,none]: must not hold none beside others; did"
    " you mean logger=[tensorboard]?",
    "trainer.precision=bf16_mixed": "trainer.precision=bf16_mixed: must be one of 32, bf16-mixed,"
    " 16-mixed; did you mean bf16-mixed?",
}


@pytest.mark.parametrize(("line", "message"), MESSAGES.items())
def test_a_mistake_is_answered_with_what_is_allowed(line: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        options.check(compose("config", line.split()))
    assert str(error.value) == message


def test_an_option_that_a_file_inherits_is_one_of_its_options() -> None:
    expected = "model=conv, gated, hierarchical, linear, mlp, resnet"
    assert unknown_key("model.conditional", "config").endswith(expected)


def test_options_in_one_word_are_named() -> None:
    with pytest.raises(ConfigError, match=r"^'data=digits seed=1': must be one key=value; several"):
        compose("config", ["data=digits seed=1"])


def test_a_pattern_that_matches_nothing_is_answered_with_the_names() -> None:
    with pytest.raises(ConfigError, match=r"^likelihood=glob\(x\*\): must match one of bernoulli,"):
        read_typed(["likelihood=glob(x*)"], None)


@pytest.mark.parametrize("devices", ["[0]", "[1]", "[0,1]"])
def test_a_list_of_devices_requires_a_gpu_also_of_the_best_device(
    devices: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    cfg = compose("config", [f"trainer.devices={devices}"])
    with pytest.raises(ConfigError, match=r"trainer\.devices=\[.*: must be a single number, as"):
        make_trainer(cfg, trainer_arguments(cfg))
    assert build_tester(cfg).num_devices == 1  # of a run that was trained elsewhere


def test_a_sweep_in_place_of_a_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text("")
    for key, meant in (("run", f"run={tmp_path / 'best'} is"), ("resume", "sweep resume=")):
        with pytest.raises(ConfigError, match=f"but is a sweep; {meant}"):
            require_run(tmp_path, key)


def test_an_interruption_is_said_once_and_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = ConsoleHandler(logging.INFO)
    with pytest.raises(Interrupted), console(handler), recorded(tmp_path):
        raise KeyboardInterrupt
    assert capsys.readouterr().err == ""
    assert "interrupted" in (tmp_path / "train.log").read_text()


def test_an_interrupted_job_does_not_count_as_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [Entry(Job(f"j{n}", (f"seed={n}",), ()), tmp_path / f"j{n}", 4) for n in range(3)]
    display = Display(entries)
    for entry, state in zip(entries, ("finished", "interrupted", "pruned"), strict=True):
        display.ended(entry.job, state, "", tmp_path / "log")
    shown = [line.split(",")[0] for line in capsys.readouterr().out.splitlines()]
    assert shown == ["[1/3] seed=0: finished", "[1/3] seed=1: interrupted", "[2/3] seed=2: pruned"]


def test_a_single_active_dimension_is_singular() -> None:
    assert describe_active(1, 16) == "1 of 16 latent dimensions is active"
    assert describe_active(0, 16) == "0 of 16 latent dimensions are active"


def test_the_status_of_a_sweep_says_why_jobs_failed_and_what_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, _, _ = read_typed(["data=digits", "seed=1,2"], None)
    plan.write(tmp_path)
    job = tmp_path / plan.jobs[0].name
    job.mkdir()
    write_json(job / "status.json", {"state": "failed", "reason": "no memory"})
    with program_arguments([f"status={tmp_path}"]):
        sweep.main()
    log = tmp_path / "logs" / f"{job.name}.log"
    assert capsys.readouterr().out.splitlines()[-1] == f"{job.name}: no memory; see {log}"
    text = first_line(plan, 0, Slots([], 1, [], None, 1), tmp_path)
    assert text == f"sweep: nothing to do, as 2 jobs finished before; folder: {tmp_path}"


@pytest.mark.parametrize(("classes", "shape"), [(3, (12, 9)), (10, (10, 10)), (0, (10, 10))])
def test_samples_of_few_classes_fill_about_a_square(classes: int, shape: tuple[int, int]) -> None:
    cfg = OmegaConf.create({"count": 100, "label": None, "prior": "model"})
    run = SimpleNamespace(module=SimpleNamespace(classes=classes), description="")
    numbers = torch.arange(100)[:, None, None, None]
    drawn = grid(cfg, run, numbers)
    assert drawn.images.shape[:2] == shape
    for column, name in enumerate(drawn.columns):
        assert int(drawn.images[1, column]) % classes == int(name)


def test_huge_numbers_are_short() -> None:
    assert decimals(20550959650193965823121943001300992.0, 2) == "2.06e+34"
    assert decimals(-1234567.891, 2) == "-1234567.89"
    assert decimals(float("inf"), 2) == "inf"


def test_an_allowed_value_is_named_once() -> None:
    number = Integer(1)
    nested = AnyOf((AnyOf((Choice(("auto",)), number)), number, Choice((None,))))
    assert nested.allowed == "auto or an integer >= 1 or null"
    slots = merged_options()["launcher.slots"]
    assert (slots.text, slots.range.allowed) == ("jobs at a time; null: as before", nested.allowed)
