"""The compiled optimizer step agrees with the plain one, which replaces it where it must."""

import copy
import logging
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from torch import Tensor

from helpers import QUIET, Command, assert_same_run, numbers, tiny, tiny_model
from vae_lightning.compile import fast_path, graphs
from vae_lightning.compile.step import CompiledStep
from vae_lightning.config.compose import compose
from vae_lightning.data.batches import Batch
from vae_lightning.objectives import ELBO, Terms, elbo
from vae_lightning.training.assembly import build_data, build_module
from vae_lightning.training.module import VAE
from vae_lightning.training.trainer import steps_per_execution

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
    ("trainer.gradient_clip_val=0.5",),
    ("trainer.gradient_clip_val=0.05", "trainer.gradient_clip_algorithm=value"),
    ("annealing=linear", "annealing.steps=7"),
    ("annealing=cyclical", "annealing.steps=4", "objective=capacity"),
    ("annealing=sigmoid", "annealing.steps=6", "objective=iwae"),
]
# these depend on the number of the step, change a buffer in the step, or use another optimizer
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
    """A model after some steps, the last but one on a smaller batch; without a C++ compiler."""
    cfg = tiny(*choices)
    model, x, condition = tiny_model(cfg)
    model.objective = objective or model.objective
    optimizer = model.train().make_optimizer(model.parameters())
    compiled = CompiledStep(model, 6, build)
    for model.counted, count in enumerate((6, 6, 6, 4, 6)):
        some = slice(count)
        batch = Batch(x[some], torch.arange(count), count, condition.take(some))
        (compiled if step else model.take_step)(batch, optimizer, model.counted)
    return model, compiled


def assert_close(one: VAE, other: VAE) -> None:
    for (name, value), expected in zip(
        one.state_dict().items(), other.state_dict().values(), strict=True
    ):
        assert torch.allclose(value, expected, rtol=1e-4, atol=1e-6), name
    assert torch.allclose(one.sums["train"].terms, other.sums["train"].terms, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sums", "the loss terms differ by"),
        ("parameter", "the updated vae.encoder.network.1.0.weight differs by"),
        ("moment", "the gradient of vae.encoder.network.1.0.weight differs by"),
    ],
)
def test_a_graph_that_computes_something_else_is_not_used(
    name: str, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(graph: graphs.Graph, _: list[Tensor]) -> graphs.Graph:
        def call(*tensors: Tensor) -> tuple[Tensor]:
            (sums,) = graph(*tensors)
            with torch.no_grad():
                if name == "parameter":
                    tensors[0].mul_(1.001)
                if name == "moment":
                    tensors[len(list(model_parameters))].mul_(1.1)
            return (sums * 1.001 if name == "sums" else sums,)

        return call

    model_parameters = tiny_model(tiny())[0].parameters()
    with caplog.at_level(logging.WARNING, "vae_lightning"):
        model, compiled = trained((), step=True, build=wrong)
    assert compiled.refused
    assert caplog.text.count("does not agree with the plain step") == 1
    assert expected in caplog.text
    plain = trained((), step=False)[0]
    for key, value in model.state_dict().items():
        assert torch.equal(value, plain.state_dict()[key]), key


def test_the_check_leaves_everything_bit_equal() -> None:
    model, x, _ = tiny_model(tiny())
    optimizer = model.train().make_optimizer(model.parameters())
    batch = Batch(x, torch.arange(6), 6)
    model.counted = 0
    model.take_step(batch, optimizer, 0)
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"]))
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    torch.manual_seed(5)
    random.seed(5)
    generators = torch.get_rng_state(), random.getstate()
    compiled = CompiledStep(model, 6, lambda graph, _: graph)
    compiled.prepare(batch, optimizer, 1)
    assert compiled.graph is not None
    after = (model.state_dict(), optimizer.state_dict()["state"])
    for name, value in before[0].items():
        assert torch.equal(value, after[0][name]), name
    for number, state in before[1].items():
        for key, value in state.items():
            assert torch.equal(value, after[1][number][key]), (number, key)
    for gradient, parameter in zip(gradients, model.parameters(), strict=True):
        assert torch.equal(gradient, parameter.grad)
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert random.getstate() == generators[1]


def test_without_the_kernels_parts_of_pytorch_the_step_is_compiled_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "vae_lightning.compile.brgemm", None)
    model, compiled = trained((), step=True)
    assert compiled.graph is not None
    assert_close(model, trained((), step=False)[0])


def test_without_torchs_compiler_the_step_is_plain(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "vae_lightning.compile.step", None)
    model, _, _ = tiny_model(tiny())
    with caplog.at_level(logging.WARNING, "vae_lightning"):
        step = fast_path.compiled_step(model, SimpleNamespace(batch_size=6))
    assert step == model.take_step
    assert caplog.text.count("the optimizer step is not compiled") == 1


class FirstStep(ELBO):
    """A user's objective that asks which step it is."""

    def __init__(self, question: Callable[[int], bool]) -> None:
        super().__init__()
        self.question = question

    def forward(self, terms: Terms, step: int) -> Tensor:
        """Twice the loss at some steps."""
        return elbo(terms) * (2 if self.question(step) else 1)


@pytest.mark.parametrize("choices", COMPILED, ids=" ".join)
def test_a_compiled_step_is_the_plain_step(
    choices: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
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
    assert caplog.text.count("trainer.compile: the optimizer step is not compiled: ") == 1
    plain = trained(choices, step=False)[0]
    assert all(
        torch.equal(value, plain.state_dict()[name]) for name, value in model.state_dict().items()
    )
    assert torch.equal(model.sums["train"].terms, plain.sums["train"].terms)


@pytest.mark.parametrize(
    "question",
    [
        lambda step: step == 0,
        lambda step: not step,
        lambda step: step < 5,
        lambda step: f"{step}" == "0",
    ],
)
def test_an_objective_that_asks_for_the_number_of_the_step_is_refused(
    question: Callable[[int], bool],
) -> None:
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
def test_an_objective_with_a_memory_of_its_own_is_refused(
    draws: bool, caplog: pytest.LogCaptureFixture
) -> None:
    random.seed(0)
    model, compiled = trained((), step=True, objective=Stateful(draws))
    assert compiled.refused
    assert "changes itself, or uses" in caplog.text
    random.seed(0)
    assert_close(model, trained((), step=False, objective=Stateful(draws))[0])


class Changing(ELBO):
    """An objective with a weight that a callback, for example, may change after an epoch."""

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

    monkeypatch.setattr(
        VAE, "counted", property(lambda model: model.__dict__["number"], counted), raising=False
    )
    model, compiled = trained((), step=True, objective=Changing())
    assert compiled.refused
    assert "was changed during training" in caplog.text
    assert_close(model, trained((), step=False, objective=Changing())[0])


class Dropping(ELBO):
    """An objective that draws from PyTorch's generator."""

    def forward(self, terms: Terms, step: int) -> Tensor:
        """Without some images."""
        return torch.nn.functional.dropout(elbo(terms), 0.5)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler is installed here")
def test_the_c_compiler_takes_a_mixture_of_its_usual_size() -> None:
    cfg = compose("config", ["prior=mixture", "model.hidden_dims=[16]"])
    cfg.trust = True
    model, other = (build_module(cfg).train() for _ in range(2))
    compiled = CompiledStep(model, 128)
    batch = Batch(torch.rand(128, 1, 28, 28), torch.arange(128), 128)
    for one, step in ((model, compiled), (other, other.take_step)):
        optimizer = one.make_optimizer(one.parameters())
        for one.counted in range(3):
            step(batch, optimizer, one.counted)
    assert not compiled.refused
    assert_close(model, other)


@pytest.mark.slow
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
    overrides: tuple[str, ...],
    callbacks: list[Callback],
    compiles: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cfg = compose("config", ["data=digits", "data.batch_size=80", "accelerator=cpu", *overrides])
    cfg.trust = True
    data, trainer = build_data(cfg), Trainer(**QUIET, accelerator="cpu")
    data.group_batches(steps_per_execution(cfg, callbacks))
    with caplog.at_level(logging.WARNING, "vae_lightning"):
        assert fast_path.compiles(cfg, trainer, data) == compiles
    assert ("needs every step" in caplog.text) == (overrides == ("trainer.compile=true",))


SMALL = (
    "data.val_size=100",
    "model.latent_dim=3",
    "model.hidden_dims=[20]",
    "data.batch_size=25",
    "accelerator=cpu",
    "trainer.threads=2",  # runs that are compared bit for bit need the same number
)


@pytest.mark.slow
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
    for one, other in zip(
        numbers(runs["compiled"]), numbers(runs["plain"]), strict=True
    ):  # 20 steps each
        for name in ("train/loss", "train/recon", "val/neg_elbo"):
            assert float(one[name]) == pytest.approx(float(other[name]), rel=1e-5)
    result = train("resume=resumed", "trainer.max_epochs=5", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert_same_run(runs["resumed"], runs["compiled"])


@pytest.mark.slow
def test_without_a_compiler_it_says_so_once_and_trains(
    train: Command, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (
        train(
            *SMALL, "trainer.max_epochs=1", "hydra.run.dir=plain", cwd=tmp_path, data=tiny_root
        ).returncode
        == 0
    )
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    choices = ("trainer.max_epochs=1", "trainer.compile=true", "hydra.run.dir=run")
    result = train(*SMALL, *choices, cwd=tmp_path, data=tiny_root, anew=True)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("the optimizer step is not compiled") == 1
    assert "Traceback" not in result.stderr
    assert_same_run(tmp_path / "run", tmp_path / "plain")
