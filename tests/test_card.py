"""The module and the data under a plain Trainer of Lightning, and as the command trains them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from helpers import QUIET, Command, built, rows

TERMS = ("loss", "recon", "kl", "neg_elbo")
OPTIONS = ("trainer.max_epochs=1", "trainer.threads=1", "seed=3")
# the step of the module itself, without the fast path
PLAIN_STEP = ("trainer.compile=false", "trainer.steps_per_execution=1")


@pytest.fixture(scope="module")
def plain(tiny_root: Path) -> dict[str, float]:
    """What a plain Trainer logs in one epoch and in the test."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    _, module, data = built(*OPTIONS, root=tiny_root)
    module.start_from(data)
    trainer = Trainer(**QUIET, max_epochs=1, accelerator="cpu")
    trainer.fit(module, data)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    (test,) = trainer.test(module, data, verbose=False)
    torch.set_num_threads(threads)
    return logged | test


def test_recon_and_kl_are_logged_apart_for_every_split(plain: dict[str, float]) -> None:
    assert set(plain) == {f"{s}/{t}" for s in ("train", "val", "test") for t in TERMS} | {
        "train/beta"
    }
    for split in ("train", "val", "test"):
        recon, kl = plain[f"{split}/recon"], plain[f"{split}/kl"]
        assert recon > kl > 0
        assert plain[f"{split}/neg_elbo"] == pytest.approx(recon + kl, rel=1e-6)


@pytest.mark.slow
def test_the_command_reports_what_a_plain_trainer_logs(
    train: Command, tiny_root: Path, tmp_path: Path, plain: dict[str, float]
) -> None:
    choices = (*OPTIONS, *PLAIN_STEP, "data.val_size=100", "accelerator=cpu", "hydra.run.dir=run")
    result = train(*choices, cwd=tmp_path, data=tiny_root)
    assert result.returncode == 0, result.stderr
    (row,) = rows(tmp_path / "run" / "metrics.csv")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for name, value in plain.items():
        assert metrics[name] == pytest.approx(value, rel=1e-6), name
        if not name.startswith("test/"):
            assert float(row[name]) == pytest.approx(value, rel=1e-6), name


@pytest.mark.slow
@pytest.mark.parametrize("compiles", [False, True])
def test_checkpoints_have_exactly_the_keys_of_the_module(
    train: Command, tiny_root: Path, tmp_path: Path, compiles: bool
) -> None:
    if compiles and not shutil.which("g++"):
        pytest.skip("no C++ compiler is installed here")
    small = ("model.hidden_dims=[20]", f"trainer.compile={str(compiles).lower()}")
    places = ("data.val_size=100", "accelerator=cpu", "hydra.run.dir=run")
    result = train(*OPTIONS, *small, *places, cwd=tmp_path, data=tiny_root)
    assert result.returncode == 0, result.stderr
    assert "not compiled" not in result.stderr
    _, module, _ = built(*OPTIONS, *small, root=tiny_root)
    for name in ("best", "last"):
        checkpoint = torch.load(
            tmp_path / "run" / "checkpoints" / f"{name}.ckpt", weights_only=True
        )
        assert list(checkpoint["state_dict"]) == list(module.state_dict())
