"""A new run that starts from the weights of another one."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from helpers import Command, configured, rows, tiny, train_run
from vae_lightning.checks.errors import ConfigError
from vae_lightning.runs.load import load_run
from vae_lightning.runs.start import check_initial
from vae_lightning.training.assembly import build_module
from vae_lightning.training.initial_weights import start_from_weights
from vae_lightning.training.module import VAE
from vae_lightning.training.provenance import write_provenance

SIZES = ("model.latent_dim=2", "model.hidden_dims=[8]", "trainer.max_epochs=1", "data=digits")


def saved(module: VAE, run: Path) -> Path:
    """A run folder with the weights of a model as best.ckpt."""
    (run / "checkpoints").mkdir(parents=True)
    stored = {"state_dict": module.state_dict(), "global_step": 3}
    torch.save(stored, run / "checkpoints" / "best.ckpt")
    return run


def test_all_weights_of_the_same_model_are_taken_bit_for_bit(tmp_path: Path) -> None:
    source = build_module(tiny("prior=vamp"))
    module = build_module(tiny("prior=vamp", "objective.beta=2"))
    for value in (*source.parameters(), *source.buffers()):
        value.data.add_(0.25)
    initial = start_from_weights(module, saved(source, tmp_path))
    state = source.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert initial.line == f"{len(state)} of {len(state)} tensors loaded"
    x, noise = torch.rand(5, 1, 4, 4), torch.randn(1, 5, 2)
    with torch.no_grad():
        one, other = source(x, noise), module(x, noise)
    assert torch.equal(one.recon, other.recon)
    assert torch.equal(one.kl, other.kl)


def test_what_does_not_fit_keeps_its_initial_value_and_is_named(tmp_path: Path) -> None:
    run = saved(build_module(tiny()), tmp_path)
    module = build_module(tiny("prior=mixture"))
    module_before = {name: value.clone() for name, value in module.state_dict().items()}
    line = start_from_weights(module, run).line
    own = sum(not name.startswith("objective.") for name in module_before)
    priors = [name for name in module_before if name.startswith("prior.")]
    assert line.startswith(f"{own - len(priors)} of {own} tensors loaded; not loaded: prior.")
    assert all(f"{name} not there" in line for name in priors)
    assert all(torch.equal(module.state_dict()[name], module_before[name]) for name in priors)
    back = start_from_weights(build_module(tiny()), saved(module, tmp_path / "mixture"))
    assert "; not used: prior." in back.line


def test_a_tensor_of_another_shape_is_named_with_both(tmp_path: Path) -> None:
    run = saved(build_module(tiny()), tmp_path)
    wide = tiny()
    wide.model.latent_dim = 3
    line = start_from_weights(build_module(wide), run).line
    assert "(8, 2) instead of (8, 3)" in line


def test_the_state_of_an_objective_belongs_to_its_training(tmp_path: Path) -> None:
    source, module = (build_module(tiny("objective=tc")) for _ in range(2))
    source.objective.dataset_size.fill_(77)
    before = int(module.objective.dataset_size)
    line = start_from_weights(module, saved(source, tmp_path)).line
    assert int(module.objective.dataset_size) == before != 77
    assert "objective" not in line


def test_weights_that_cannot_be_used_are_one_line(tmp_path: Path) -> None:
    module = build_module(tiny())
    other = saved(torch.nn.Linear(2, 3), tmp_path / "other")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=rf"^init_from={other}: must have a tensor"):
        start_from_weights(module, other)
    path = other / "checkpoints" / "best.ckpt"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ConfigError, match=rf"^init_from={other}: best.ckpt is damaged"):
        start_from_weights(module, other)
    (tmp_path / "x.safetensors").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"^init_from=.*x.safetensors: is damaged"):
        start_from_weights(module, tmp_path / "x.safetensors")
    for source, message in (
        (tmp_path, "a run folder"),
        (tmp_path / "y.safetensors", "a run folder"),
    ):
        with pytest.raises(ConfigError, match=rf"^init_from={source}: must be {message}"):
            check_initial(configured(f"init_from={source}"))


def test_a_run_records_its_initial_weights_and_refuses_others_when_it_starts_again(
    tmp_path: Path,
) -> None:
    initial = {"source": "a", "sha256": "1"}
    write_provenance(tmp_path, initial)
    write_provenance(tmp_path)  # a run that continues
    assert json.loads((tmp_path / "environment.json").read_text())["init_from"] == initial
    write_provenance(tmp_path, initial)
    with pytest.raises(ConfigError, match=r"^init_from=a: must hold the weights"):
        write_provenance(tmp_path, initial | {"sha256": "2"})


@pytest.mark.slow
def test_a_run_starts_from_another_and_continues_without_it(train: Command, tmp_path: Path) -> None:
    source = train_run(train, tmp_path, tmp_path, *SIZES, name="source")
    words = (*SIZES, "init_from=source", "from_config=source", "optimizer.lr=1e-12")
    done = train(*words, "hydra.run.dir=new", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "init_from: 8 of 8 tensors loaded" in done.stderr
    # so small a learning rate changes nothing: the new run ends where the first one was best
    before, after = (rows(tmp_path / name / "metrics.csv")[-1] for name in ("source", "new"))
    assert float(after["val/neg_elbo"]) == pytest.approx(float(before["val/neg_elbo"]), rel=1e-5)
    recorded = json.loads((tmp_path / "new" / "environment.json").read_text())["init_from"]
    assert recorded["source"] == str(source.resolve())
    shutil.rmtree(source)
    done = train("resume=new", "trainer.max_epochs=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "init_from" not in done.stderr
    assert load_run(tmp_path / "new").cfg.init_from == str(source.resolve())
