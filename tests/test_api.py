"""Training from a program: fit is the command, and build trains with any Trainer of Lightning."""

import logging
import math
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from hydra import version
from hydra.core.global_hydra import GlobalHydra
from lightning.pytorch import Callback, LightningModule, Trainer
from sklearn.datasets import load_digits
from torch.optim import Optimizer

from helpers import QUIET, assert_same_run, rows, weights
from vae_lightning import build, fit, load_run, train
from vae_lightning.checks.errors import ConfigError, Interrupted
from vae_lightning.cli.arguments import program_arguments
from vae_lightning.config.compose import compose
from vae_lightning.storage.run_folder import read_status
from vae_lightning.training.signals import CallSignals

DIGITS = load_digits()
IMAGES = (DIGITS.images[:300] / 16).astype(np.float32)  # 240 are trained, 30 validate, 30 test
LABELS = DIGITS.target[:300]
SMALL = (
    "model.latent_dim=2",
    "model.hidden_dims=[16]",
    "data.batch_size=50",  # 5 batches in an epoch
    "trainer.max_epochs=2",
    "trainer.threads=1",
    "callbacks=none",
    "logger=none",
    "accelerator=cpu",
)
MODEL = SMALL[:3]  # what build takes
PLAIN: dict[str, object] = {**QUIET, "accelerator": "cpu", "max_epochs": 3}


@pytest.fixture(autouse=True)
def _new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# fit


def test_fit_is_the_command_bit_for_bit_and_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", x=IMAGES, labels=LABELS)
    choices = (*SMALL, "model.conditional=true", "data.binarization=dynamic")
    with program_arguments([*choices, "data=arrays", "data.root=images.npz", "hydra.run.dir=a"]):
        train.main()
    torch.manual_seed(3)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        x = torch.from_numpy(IMAGES)
        run = fit(x, [*choices, "hydra.run.dir=b"], labels=LABELS, verbose=False)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.rand(()) == torch.rand((), generator=torch.Generator().manual_seed(3))
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert run.source.resolve() == tmp_path / "b"
    assert run.module.classes == 10


def test_the_run_has_its_images_wherever_its_folder_is_and_continues(tmp_path: Path) -> None:
    given = IMAGES.copy()
    run = fit(given, SMALL, labels=[f"digit {label}" for label in LABELS], verbose=False)
    (folder,) = tmp_path.glob("outputs/*/*")
    assert run.source == folder
    given[:] = 0  # the run has its own copy
    shutil.move(folder, tmp_path / "moved")
    images = load_run("moved").images("train")
    assert images.shape == (240, 1, 8, 8)
    assert images.float().mean() > 50
    fit(None, ["resume=moved", "trainer.max_epochs=3"], verbose=False)
    assert [row["epoch"] for row in rows(tmp_path / "moved" / "metrics.csv")] == ["1", "2", "3"]
    fit(None, ["resume=moved"])  # is finished
    with pytest.raises(ConfigError, match="must not be given with resume"):
        fit(IMAGES, ["resume=moved"])


def test_arrays_of_splits_are_those_of_a_file() -> None:
    splits = {"train": DIGITS.data[:200], "test": DIGITS.data[200:300]}
    run = fit(splits, [*SMALL, "data.range=[0,16]", "data.val_size=20"], verbose=False)
    assert [run.data.images_in(split) for split in ("train", "val", "test")] == [180, 20, 100]
    assert run.image_shape == [1, 1, 64]


def test_fits_in_several_threads_have_the_numbers_of_one_alone(tmp_path: Path) -> None:
    def one(name: str) -> None:
        fit(IMAGES, [*SMALL, f"hydra.run.dir={name}"], verbose=False)

    threads = [threading.Thread(target=one, args=(name,)) for name in ("b", "c")]
    for thread in threads:
        thread.start()
    one("a")
    for thread in threads:
        thread.join()
    for name in ("b", "c"):
        assert_same_run(tmp_path / "a", tmp_path / name)


def test_the_program_may_have_a_hydra_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "mine.yaml").write_text("model: mine\n")
    before = version.getbase()
    try:
        with hydra.initialize_config_dir(str(tmp_path / "conf"), version_base="1.2"):
            own = GlobalHydra.instance().hydra
            assert compose("config", ["model=conv"]).data.name == "mnist"
            assert GlobalHydra.instance().hydra is own
            assert str(version.getbase()) == "1.2"
            assert hydra.compose("mine").model == "mine"
    finally:
        version.VersionBase.instance().version_base = before


HYDRA_PROGRAM = """
import hydra
import numpy as np
from hydra.core.hydra_config import HydraConfig
from vae_lightning import fit

@hydra.main(version_base="1.1", config_path=None)
def main(cfg):
    job = HydraConfig.get().job.name
    run = fit(np.load("images.npy"), list(cfg.overrides))
    assert HydraConfig.get().job.name == job == "program"
    print("codes", *run.encode(run.images()).mean.shape)

main()
"""


@pytest.mark.slow
def test_fit_trains_within_a_program_of_hydra(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", IMAGES)
    (tmp_path / "program.py").write_text(HYDRA_PROGRAM)
    words = ",".join(f"'{word}'" for word in [*SMALL, "hydra.run.dir=run"])
    command = [
        sys.executable,
        "program.py",
        f"+overrides=[{words}]",
        "hydra.job.chdir=false",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "codes 30 2" in done.stdout
    assert "epoch   2/2" in done.stdout  # in the log of the program
    assert done.stdout.count("epoch   2/2") == 1
    assert read_status(tmp_path / "run") == {"state": "finished"}


@pytest.mark.slow
def test_fit_trains_in_a_notebook(tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    np.save(tmp_path / "images.npy", IMAGES)
    code = f"""
import numpy as np
from vae_lightning import fit
run = fit(np.load("images.npy"), {[*SMALL, "hydra.run.dir=run"]!r})
run.sample(3).shape
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    outputs = notebook.cells[0].outputs
    printed = "".join(each.get("text", "") for each in outputs)
    assert outputs[-1]["data"]["text/plain"] == "torch.Size([3, 1, 8, 8])"
    assert "epoch   2/2" in printed
    assert "nats per image" in printed


def test_fit_prints_what_the_command_prints_unless_told_otherwise(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # those of pytest
    run = fit(IMAGES, SMALL)
    printed = capsys.readouterr()
    assert "nats per image" in printed.out
    assert printed.err.count("epoch   2/2") == 1
    fit(IMAGES, SMALL, verbose=False)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "")
    assert "epoch   2/2" in (run.source / "train.log").read_text()


WRONG = {
    "model.latent_dm=2": "did you mean model.latent_dim",
    "model.latent_dim=0": "model.latent_dim=0: must be an integer >= 1",
    "seed=0,1": "seed=0,1",
    "--help": "--help: must be key=value",
    "data=mnist": "data=mnist: must not be given with x",
    "data.root=images": "data.root=images: must not be given with x",
    "accelerator=ddp_cpu": "accelerator.strategy=ddp: requires the command train",
    "hydra.mode=MULTIRUN": "requires the command train -m",
    "search.trials=3": "search.trials=3: must only be given for a sweep",
    "resume=nothing": "must not be given with resume|must be a run folder",
    "likelihood=bernoulli": "likelihood",
    "data.range=[0,0.5]": "must contain x",
}


@pytest.mark.parametrize("word", WRONG)
def test_a_wrong_override_raises_and_writes_nothing(word: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=WRONG[word]) as error:
        fit(IMAGES, [*SMALL, word])
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("x", "labels", "message"),
    [
        (IMAGES[0, 0], None, "x: must be N images"),
        (IMAGES[:2], None, "images: must hold at least 3 images, but holds 2"),
        (IMAGES * np.nan, None, "x: must be finite"),
        (IMAGES * 16, None, "x: must be uint8 .* set data.range="),
        ([["a"]], None, "x: must hold numbers, but its type is <U1"),
        ([[1], [1, 2]], None, "x: must be an array of numbers"),
        ({"test": IMAGES}, None, "x: must be an array, or a mapping with train"),
        ({"train": IMAGES, "tests": IMAGES}, None, "x: must have arrays train, val and test"),
        (IMAGES, LABELS[:5], "must have one label per image"),
        (None, LABELS, "labels: must be given with x"),
        (np.broadcast_to(np.uint8(0), (1 << 21, 32, 32)), None, "x: must take at most 1 GiB"),
    ],
    ids=str,
)
def test_wrong_images_raise_and_write_nothing(
    x: object, labels: object, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        fit(x, SMALL, labels=labels)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", ["seed=1", [1]])
def test_overrides_are_a_list_of_texts(words: Sequence[str]) -> None:
    with pytest.raises(ConfigError, match="must be a list of texts"):
        fit(IMAGES, words)


class Raising(logging.Handler):
    """Raises a signal when the first epoch is logged."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("epoch   1/"):
            signal.raise_signal(self.number)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_saves_the_run_and_is_a_keyboard_interrupt(name: str, tmp_path: Path) -> None:
    number, received = getattr(signal, name), []
    before = signal.signal(number, lambda number, _: received.append(number))
    logger, handler = logging.getLogger("vae_lightning"), Raising(number)
    logger.addHandler(handler)
    try:
        with pytest.raises(KeyboardInterrupt, match=r"resume=.*run'\]\) continues it"):
            fit(IMAGES, [*SMALL, "hydra.run.dir=run"], verbose=False)
    finally:
        logger.removeHandler(handler)
        signal.signal(number, before)
    assert received == ([] if name == "SIGINT" else [number])  # by what handled it before
    assert read_status(tmp_path / "run") == {"state": "interrupted"}
    fit(None, ["resume=run"], verbose=False)
    fit(IMAGES, [*SMALL, "hydra.run.dir=whole"], verbose=False)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_second_signal_of_a_call_does_not_end_the_process() -> None:
    stop = CallSignals()
    stop.is_deferred = True
    stop.receive(signal.SIGINT, None)
    with pytest.raises(Interrupted):
        stop.receive(signal.SIGINT, None)


# build


class Steps(Callback):
    """Notes the learning rate and the change of the weights at each optimizer step."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.changes: list[torch.Tensor] = []
        self.betas: list[float] = []
        self.before = torch.empty(0)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])
        self.before = flat(pl_module)

    def on_before_zero_grad(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if len(self.before):
            self.changes.append(flat(pl_module) - self.before)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.betas += map(float, [trainer.callback_metrics.get("train/beta", 0.0)])


def flat(module: LightningModule) -> torch.Tensor:
    """All weights as one vector."""
    return torch.cat([value.detach().flatten() for value in module.parameters()])


def trained(*overrides: str, **arguments: object) -> tuple[Trainer, Steps]:
    """A model that a plain Trainer has trained, and what happened at its steps."""
    steps = Steps()
    module, data = build(IMAGES, [*MODEL, *overrides])
    trainer = Trainer(**{**PLAIN, **arguments, "callbacks": [steps]})
    trainer.fit(module, data)
    return trainer, steps


def cosine(steps: int) -> list[float]:
    """The learning rates of so many steps."""
    return [1e-3 * 0.5 * (1 + math.cos(math.pi * step / steps)) for step in range(steps)]


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        ({}, 15),  # 3 epochs of 240 images in batches of 50
        ({"accumulate_grad_batches": 2}, 9),  # of 2, 2 and 1 batch
        ({"limit_train_batches": 3}, 9),
        ({"limit_train_batches": 0.4}, 6),
        ({"accumulate_grad_batches": 2, "limit_train_batches": 3}, 6),
        ({"max_steps": 7}, 7),
        ({"max_steps": 7, "max_epochs": None}, 7),
        ({"overfit_batches": 1}, 3),
    ],
    ids=str,
)
def test_the_schedule_ends_with_the_steps_of_any_trainer(
    arguments: dict[str, object], steps: int
) -> None:
    trainer, seen = trained("scheduler=cosine", **arguments)
    assert trainer.global_step == steps
    assert seen.rates == pytest.approx(cosine(steps))
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


def test_a_schedule_by_epochs_begins_after_its_warm_up_with_any_trainer() -> None:
    words = ("scheduler=step", "scheduler.step_size=1", "scheduler.gamma=0.5")
    _, seen = trained(*words, "scheduler.interval=epoch", "scheduler.warmup_steps=3")
    first = [1e-3 * factor for factor in (0.25, 0.5, 0.75, 1, 1)]
    assert seen.rates == pytest.approx([*first, *[0.5e-3] * 5, *[0.25e-3] * 5])


def test_a_schedule_without_an_end_is_refused() -> None:
    with pytest.raises(ConfigError, match="requires max_epochs or max_steps"):
        trained("scheduler=cosine", max_epochs=-1)


def test_annealing_counts_the_optimizer_steps_of_any_trainer() -> None:
    trainer, seen = trained("annealing=linear", "annealing.steps=8", accumulate_grad_batches=2)
    assert [*seen.betas[1:], trainer.callback_metrics["train/beta"]] == [3 / 8, 6 / 8, 1]


SGD = ("optimizer=torch", "optimizer.name=SGD", "optimizer.lr=1")


def test_any_trainer_clips_the_gradient() -> None:
    _, free = trained(*SGD, max_steps=2)
    assert free.changes[0].norm() > 0.1
    _, clipped = trained(*SGD, max_steps=2, gradient_clip_val=0.01)
    assert float(clipped.changes[0].norm()) == pytest.approx(0.01, rel=1e-4)
    direction = torch.cosine_similarity(free.changes[0], clipped.changes[0], dim=0)
    assert float(direction) == pytest.approx(1, abs=1e-4)
    by_value = {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}
    _, clipped = trained(*SGD, max_steps=2, **by_value)
    expected = free.changes[0].clamp(-0.01, 0.01)
    torch.testing.assert_close(clipped.changes[0], expected, rtol=0, atol=1e-6)


def test_any_trainer_trains_validates_and_tests_as_a_run_does() -> None:
    common = ("scheduler=cosine", "annealing=linear", "annealing.steps=6", "seed=5")
    given = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5}
    run = fit(
        IMAGES,
        [*SMALL, *common, *(f"trainer.{key}={value}" for key, value in given.items())],
        verbose=False,
    )
    module, data = build(IMAGES, [*MODEL, *common])
    trainer = Trainer(**{**PLAIN, **given, "max_epochs": 2})
    trainer.fit(module, data)
    last = weights(run.source)
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, last[name], rtol=1e-4, atol=1e-6)
    expected = rows(run.source / "metrics.csv")[-1]
    for name, value in trainer.callback_metrics.items():
        assert float(value) == pytest.approx(float(expected[name]), rel=1e-5), name
    assert set(expected) >= {"train/neg_elbo", "val/recon", "val/kl"}
    (tested,) = trainer.test(module, data, verbose=False)
    assert set(tested) == {"test/loss", "test/recon", "test/kl", "test/neg_elbo"}


def test_any_trainer_continues_from_its_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "two.ckpt"
    parts = {}
    for name, epochs, start in (("two", 2, None), ("three", 3, path), ("whole", 3, None)):
        module, data = build(IMAGES, [*MODEL, "data.binarization=dynamic"])
        trainer = Trainer(**{**PLAIN, "max_epochs": epochs})
        trainer.fit(module, data, ckpt_path=start, weights_only=True)
        trainer.save_checkpoint(tmp_path / f"{name}.ckpt")
        parts[name] = flat(module)
    assert torch.equal(parts["three"], parts["whole"])
    assert not torch.equal(parts["two"], parts["whole"])


@pytest.mark.parametrize(
    "word", ["trainer.max_epochs=3", "callbacks=ema", "logger=none", "accelerator=gpu", "resume=a"]
)
def test_options_of_the_trainer_are_refused(word: str) -> None:
    with pytest.raises(ConfigError, match="give it to your Trainer"):
        build(IMAGES, [*MODEL, word])


def test_build_starts_from_the_weights_of_a_run() -> None:
    run = fit(IMAGES, SMALL, verbose=False)
    module, _ = build(IMAGES, [*MODEL, f"init_from={run.source}"])
    best = run.module.state_dict()
    assert all(torch.equal(best[name], value) for name, value in module.state_dict().items())
