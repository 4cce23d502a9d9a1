"""Several optimizer steps in one call by Lightning give the same numbers and step counts."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from helpers import Command, assert_same_run, tiny, tiny_model
from vae_lightning.compile.direct import DirectStep
from vae_lightning.config.compose import compose
from vae_lightning.data.batches import Batch
from vae_lightning.runs.stored import read_stored
from vae_lightning.training.assembly import build_module
from vae_lightning.training.module import VAE
from vae_lightning.training.trainer import silence_notices, steps_per_execution

CHOICES = (
    "data.val_size=100",
    "data.batch_size=30",
    "model.hidden_dims=[20]",
    "trainer.max_epochs=3",
    "trainer.threads=2",  # runs that are compared bit for bit need the same number
)
MOVING = ("scheduler=cosine", "annealing=linear", "annealing.steps=30", "data.binarization=dynamic")


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of all scalars that do not depend on a clock."""
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    names = [name for name in events.Tags()["scalars"] if not name.startswith("speed")]
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_any_number_of_steps_in_a_call_gives_the_same_run_bit_for_bit(
    train: Command, tiny_root: Path, tmp_path: Path, precision: str
) -> None:
    # of 17 steps an epoch: 17 calls, 5 calls, 1 call
    first, *others = (tmp_path / str(steps) for steps in (1, 4, 1000))
    for run in (first, *others):
        fixed = (
            f"trainer.precision={precision}",
            f"trainer.steps_per_execution={run.name}",
            f"hydra.run.dir={run}",
        )
        result = train(*CHOICES, *MOVING, *fixed, cwd=tmp_path, data=tiny_root)
        assert result.returncode == 0, result.stderr
    for run in others:
        assert_same_run(first, run)
        assert scalars(first) == scalars(run)
        one, other = (
            torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)
            for path in (first, run)
        )
        assert one["global_step"] == other["global_step"] == 3 * 17
        assert one["lr_schedulers"] == other["lr_schedulers"]
        for name, state in one["optimizer_states"][0]["state"].items():
            for key, value in state.items():
                assert torch.equal(value, other["optimizer_states"][0]["state"][name][key])


class Watching(Callback):
    """A user's callback with a hook for each step."""

    def on_train_batch_end(self, *_: object) -> None:
        """Does nothing."""


@pytest.mark.parametrize(
    ("overrides", "callbacks", "steps"),
    [
        ((), [], 16),
        (("trainer.steps_per_execution=5",), [EarlyStopping("val/loss")], 5),
        ((), [Watching()], 1),
        ((), [LearningRateMonitor()], 1),
        (("trainer.gradient_clip_val=1",), [], 16),
        (("trainer.accumulate_grad_batches=2",), [], 1),
        (("accelerator=ddp_cpu",), [], 1),
    ],
)
def test_a_call_is_one_step_if_a_callback_or_an_option_needs_each_step(
    overrides: tuple[str, ...], callbacks: list[Callback], steps: int
) -> None:
    assert steps_per_execution(compose("config", list(overrides)), callbacks) == steps


@pytest.mark.slow
def test_gradient_clipping_of_lightning_works(
    train: Command, tiny_root: Path, tmp_path: Path
) -> None:
    clip = "trainer.gradient_clip_val=1e-30"
    result = train(
        *CHOICES, clip, "optimizer.eps=1", "hydra.run.dir=run", cwd=tmp_path, data=tiny_root
    )
    assert result.returncode == 0, result.stderr
    cfg = read_stored(tmp_path / "run", "run").cfg
    initial = build_module(cfg).state_dict()
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)[
        "state_dict"
    ]
    assert all(torch.allclose(initial[name], value, atol=1e-12) for name, value in last.items())


def test_a_step_on_a_cpu_does_not_look_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # as importing Lightning does
    silence_notices()
    model, x, _ = tiny_model(tiny("accelerator=cpu"))
    monkeypatch.setattr(VAE, "global_step", 0)
    optimizer = model.train().make_optimizer(model.parameters())
    monkeypatch.setattr(torch.cuda, "device_count", lambda: pytest.fail("looked for GPUs"))
    model.take_step(Batch(x, torch.arange(len(x)), len(x)), optimizer, 0)


class SkipsLayer(nn.Module):
    """A network of which some steps use a layer and others do not."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 8), nn.Linear(8, 8)
        self.last, self.calls = nn.Linear(8, outputs), 0

    def forward(self, x: Tensor) -> Tensor:
        """Uses the second layer in every other call."""
        self.calls += 1
        hidden = self.first(x.flatten(1)).relu()
        return self.last(self.second(hidden) if self.calls % 2 else hidden)


@pytest.mark.parametrize(
    "choices",
    [
        (),
        ("optimizer=adamw", "optimizer.lr=0.01"),
        ("optimizer.weight_decay=0.1",),
        ("optimizer.amsgrad=true",),
        ("optimizer.fused=false",),
        ("trainer.gradient_clip_val=0.5",),
        ("trainer.gradient_clip_val=0.01", "trainer.gradient_clip_algorithm=value"),
    ],
    ids=" ".join,
)
def test_direct_steps_are_the_plain_steps_bit_for_bit(
    monkeypatch: pytest.MonkeyPatch, choices: tuple[str, ...]
) -> None:
    seen = []
    for is_direct in (False, True):
        torch.manual_seed(0)
        model, x, _ = tiny_model(tiny("accelerator=cpu", *choices))
        model.encoder.network = SkipsLayer(2 * model.latent_dim)
        step = DirectStep(model) if is_direct else model.take_step
        optimizer = model.train().make_optimizer(model.parameters())
        for number in range(12):
            monkeypatch.setattr(VAE, "current_epoch", number // 3)
            if number % 3 == 0:  # frozen in the first epoch and in the third one
                model.decoder.requires_grad_(number not in (0, 6))
                optimizer.param_groups[0]["lr"] *= 0.9
            step(Batch(x, torch.arange(len(x)), len(x)), optimizer, number)
        seen.append([*model.state_dict().values(), torch.tensor(model.sums["train"].means())])
        assert not is_direct or bool(step.parameters) == (
            "fused=false" not in " ".join(choices) and "amsgrad" not in " ".join(choices)
        )
    assert all(torch.equal(plain, direct) for plain, direct in zip(*seen, strict=True))
