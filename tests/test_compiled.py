"""The compiled optimiser step: the numbers of the plain one, for each part that can be compiled; else the plain one."""

import logging
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import Command
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from omegaconf import open_dict
from test_cli import assert_same_run, numbers
from test_steps import QUIET
from tiny import tiny, tiny_model
from torch import Tensor

from vae_lightning import graphs, trainers
from vae_lightning.cli import compose
from vae_lightning.compiled import CompiledStep
from vae_lightning.data import Batch
from vae_lightning.module import VAE
from vae_lightning.objectives import ELBO, Terms, elbo

COMPILED = [
    (),
    ("model=conv", "likelihood=bernoulli"),
    ("model=resnet", "likelihood=discretized_logistic"),
    ("model.conditional=true", "likelihood=gaussian", "likelihood.std=per_pixel"),
    ("posterior=full_normal", "objective=tc"),
    ("posterior=flow", "prior=flow"),
    ("prior=mixture", "likelihood=continuous_bernoulli"),
    ("prior=vamp", "likelihood=bernoulli"),
    ("objective=iwae", "likelihood=laplace"),
    ("objective=iwae", "objective.gradient=stl"),
    ("objective=iwae", "objective.gradient=dreg"),
    ("optimizer=adamw", "optimizer.weight_decay=0.1"),
    ("optimizer.weight_decay=0.1",),
    ("annealing=linear", "annealing.steps=7"),
    ("annealing=cyclical", "annealing.steps=4", "objective=capacity"),
    ("annealing=sigmoid", "annealing.steps=6", "objective=iwae"),
]
# what needs the number of the step, changes a buffer in the step, or is another optimiser
REFUSED = [
    ("objective=mmd",),
    ("objective=geco",),
    ("likelihood=gaussian", "likelihood.std=optimal"),
    ("optimizer.amsgrad=true",),
]


@pytest.fixture(autouse=True)
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps, and epochs of two steps, are counted without a Trainer."""
    monkeypatch.setattr(VAE, "global_step", property(lambda model: model.counted))
    monkeypatch.setattr(VAE, "current_epoch", property(lambda model: model.counted // 2))


def trained(
    choices: tuple[str, ...],
    step: bool,
    objective: torch.nn.Module | None = None,
    build: graphs.Builder = lambda graph, _: graph,
) -> tuple[VAE, CompiledStep]:
    """After some steps, the last but one on a smaller batch; without the C++ compiler, which takes seconds."""
    cfg = tiny(*choices)
    model, x, condition = tiny_model(cfg)
    model.objective = objective or model.objective
    model.start()
    optimizer = model.train().make_optimizer(model.parameters())
    compiled = CompiledStep(model, 6, build)
    for model.counted, count in enumerate((6, 6, 6, 4, 6)):
        batch = Batch(x[:count], torch.arange(count), count, tuple(values[:count] for values in condition))
        compiled(batch, optimizer) if step else model.optimize(batch, optimizer)
    return model, compiled


def assert_close(one: VAE, other: VAE) -> None:
    for (name, value), expected in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.allclose(value, expected, rtol=1e-4, atol=1e-6), name
    assert torch.allclose(one.totals, other.totals, rtol=1e-5)


class FirstStep(ELBO):
    """A user's objective that asks which step it is."""

    def __init__(self, question: Callable[[int], bool]) -> None:
        super().__init__()
        self.question = question

    def forward(self, terms: Terms, step: int) -> Tensor:
        """Twice the loss at some steps."""
        return elbo(terms) * (2 if self.question(step) else 1)


@pytest.mark.parametrize("choices", COMPILED, ids=" ".join)
def test_a_compiled_step_is_the_plain_step(choices: tuple[str, ...], caplog: pytest.LogCaptureFixture) -> None:
    model, compiled = trained(choices, step=True)
    assert not compiled.refused, caplog.text
    assert compiled.graph is not None
    assert_close(model, trained(choices, step=False)[0])


@pytest.mark.parametrize("choices", REFUSED, ids=" ".join)
def test_what_cannot_be_compiled_is_named_once_and_done_as_it_was(
    choices: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "vae_lightning"):
        model, compiled = trained(choices, step=True)
    assert compiled.refused
    assert caplog.text.count("trainer.compile: the optimiser step is not compiled: ") == 1
    plain = trained(choices, step=False)[0]
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in model.state_dict().items())
    assert torch.equal(model.totals, plain.totals)


@pytest.mark.parametrize(
    "question",
    [lambda step: step == 0, lambda step: not step, lambda step: step < 5, lambda step: f"{step}" == "0"],
)
def test_an_objective_that_asks_for_the_number_of_the_step_is_refused(question: Callable[[int], bool]) -> None:
    model, compiled = trained((), step=True, objective=FirstStep(question))
    assert compiled.refused
    assert_close(model, trained((), step=False, objective=FirstStep(question))[0])


def test_a_parameter_that_nothing_uses_stays_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    idle = ELBO()
    idle.weight = torch.nn.Parameter(torch.ones(3))
    model, compiled = trained((), step=True, objective=idle)
    assert compiled.refused
    assert "a parameter had no gradient" in caplog.text
    assert torch.equal(model.objective.weight, torch.ones(3))


class Stateful(ELBO):
    """A user's objective that counts its calls, or draws from Python's generator."""

    def __init__(self, draws: bool) -> None:
        super().__init__()
        self.draws, self.calls = draws, 0

    def forward(self, terms: Terms, step: int) -> Tensor:
        """A multiple of the loss."""
        if self.draws:
            return elbo(terms) * random.choice([1, 2])
        self.calls += 1
        return elbo(terms) * self.calls


@pytest.mark.parametrize("draws", [False, True])
def test_an_objective_with_a_memory_of_its_own_is_refused(draws: bool, caplog: pytest.LogCaptureFixture) -> None:
    random.seed(0)
    model, compiled = trained((), step=True, objective=Stateful(draws))
    assert compiled.refused
    assert "changes itself, or draws" in caplog.text
    random.seed(0)
    assert_close(model, trained((), step=False, objective=Stateful(draws))[0])


class Changing(ELBO):
    """An objective whose weight something changes from the third step on, as a callback would after an epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.nested = SimpleNamespace(weights=[1.0])

    def forward(self, terms: Terms, step: int) -> Tensor:
        """A multiple of the loss."""
        return elbo(terms) * self.nested.weights[0]


def test_a_setting_that_is_changed_between_epochs_counts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def counted(model: VAE, value: int) -> None:
        model.__dict__["number"] = value
        if value == 4:
            model.objective.nested.weights[0] = 2.0

    monkeypatch.setattr(VAE, "counted", property(lambda model: model.__dict__["number"], counted), raising=False)
    model, compiled = trained((), step=True, objective=Changing())
    assert compiled.refused
    assert "was changed while it trained" in caplog.text
    assert_close(model, trained((), step=False, objective=Changing())[0])


class Dropping(ELBO):
    """An objective that draws from PyTorch's generator."""

    def forward(self, terms: Terms, step: int) -> Tensor:
        """Without some images."""
        return torch.nn.functional.dropout(elbo(terms), 0.5)


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler is installed here")
def test_the_c_compiler_takes_a_mixture_of_its_usual_size() -> None:
    cfg = compose("config", ["prior=mixture", "model.hidden_dims=[16]"])
    cfg.trust = True
    model, other = (trainers.build_module(cfg).train() for _ in range(2))
    compiled = CompiledStep(model, 128)
    batch = Batch(torch.rand(128, 1, 28, 28), torch.arange(128), 128)
    for one, step in ((model, compiled), (other, other.optimize)):
        one.start()
        optimizer = one.make_optimizer(one.parameters())
        for one.counted in range(3):
            step(batch, optimizer)
    assert not compiled.refused
    assert_close(model, other)


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler is installed here")
def test_what_a_network_draws_is_drawn_as_in_the_plain_step() -> None:
    torch.manual_seed(3)
    model, compiled = trained((), step=True, objective=Dropping(), build=graphs.inductor)
    assert not compiled.refused
    torch.manual_seed(3)
    assert_close(model, trained((), step=False, objective=Dropping())[0])


class Bare(torch.nn.Module):
    """An objective of no other kind than a Module."""

    num_samples = 1

    def forward(self, terms: Terms, step: int) -> Tensor:
        """The negative bound."""
        return elbo(terms)


def test_an_objective_need_not_know_of_annealing() -> None:
    model, compiled = trained((), step=True, objective=Bare())
    assert not compiled.refused
    assert_close(model, trained((), step=False, objective=Bare())[0])


@pytest.mark.parametrize(
    ("overrides", "callbacks", "compiles"),
    [
        (("trainer.max_epochs=1000",), [], True),  # 18 steps an epoch
        (("trainer.max_epochs=300",), [], False),
        (("trainer.max_epochs=1000", "trainer.compile=false"), [], False),
        (("trainer.max_epochs=1", "trainer.compile=true"), [], True),
        (("trainer.max_epochs=1000",), [LearningRateMonitor()], False),
        (("trainer.compile=true",), [LearningRateMonitor()], False),
    ],
)
def test_it_compiles_what_is_long_enough_or_asked_for_but_not_what_looks_at_each_step(
    overrides: tuple[str, ...], callbacks: list[Callback], compiles: bool, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = compose("config", ["data=digits", "data.batch_size=80", "accelerator=cpu", *overrides])
    cfg.trust = True
    data, trainer = trainers.build_data(cfg), Trainer(**QUIET, accelerator="cpu", callbacks=callbacks)
    data.steps_per_execution = trainers.steps_per_execution(cfg, trainer)
    with caplog.at_level(logging.WARNING, "vae_lightning"):
        assert trainers.compiles(cfg, trainer, data) == compiles
    assert ("something to do at each step" in caplog.text) == (overrides == ("trainer.compile=true",))


def test_a_run_stored_before_there_was_a_choice_is_not_compiled() -> None:
    cfg = compose("config", ["data=digits", "trainer.max_epochs=1000"])
    cfg.trust = True
    with open_dict(cfg):
        del cfg.trainer["compile"]
    assert not trainers.compiles(cfg, Trainer(**QUIET), trainers.build_data(cfg))


SMALL = ("data.val_size=100", "model.latent_dim=3", "model.hidden_dims=[20]", "data.batch_size=25", "accelerator=cpu")


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler is installed here")
def test_a_hundred_compiled_steps_are_within_1e_5_and_a_resumed_run_is_the_same(
    train: Command, tiny_root: Path, tmp_path: Path
) -> None:
    runs = {}
    for name, overrides in {
        "plain": ["trainer.max_epochs=5"],
        "compiled": ["trainer.max_epochs=5", "trainer.compile=true"],
        "resumed": ["trainer.max_epochs=2", "trainer.compile=true"],
    }.items():
        runs[name] = tmp_path / name
        result = train(*SMALL, *overrides, f"hydra.run.dir={name}", cwd=tmp_path, data=tiny_root)
        assert result.returncode == 0, result.stderr
        assert "not compiled" not in result.stderr
    for one, other in zip(numbers(runs["compiled"]), numbers(runs["plain"]), strict=True):  # 20 steps each
        for name in ("train/loss", "train/recon", "val/neg_elbo"):
            assert float(one[name]) == pytest.approx(float(other[name]), rel=1e-5)
    result = train("resume=resumed", "trainer.max_epochs=5", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert_same_run(runs["resumed"], runs["compiled"])


def test_without_a_compiler_it_says_so_once_and_trains(
    train: Command, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(*SMALL, "trainer.max_epochs=1", "hydra.run.dir=plain", cwd=tmp_path, data=tiny_root).returncode == 0
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    choices = ("trainer.max_epochs=1", "trainer.compile=true", "hydra.run.dir=run")
    result = train(*SMALL, *choices, cwd=tmp_path, data=tiny_root)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("the optimiser step is not compiled") == 1
    assert "Traceback" not in result.stderr
    assert_same_run(tmp_path / "run", tmp_path / "plain")
