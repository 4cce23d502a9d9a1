"""A run from Python: its numbers agree with evaluate, and a mistake is a one-line error."""

import doctest
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers import Command, tiny, tiny_model, train_run
from vae_lightning import VAEEstimator, build, evaluate, fit, load_run
from vae_lightning.checks.errors import ConfigError
from vae_lightning.config.compose import compose
from vae_lightning.evaluation.latents import Moments
from vae_lightning.networks import Condition
from vae_lightning.runs.run import Run
from vae_lightning.storage import run_folder as runs

ROOT = Path(__file__).parent.parent
# the methods of Run that docs/reference/api.md shows
PUBLIC = ("images", "labels", "encode", "decode", "reconstruct", "sample", "log_prob", "score")
SMALL = (
    "model.latent_dim=3",
    "model.hidden_dims=[16]",
    "data.val_size=100",
    "trainer.max_epochs=2",
)


@pytest.fixture(scope="module")
def trained(train: Command, tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    return train_run(train, folder, tiny_root, *SMALL, "accelerator=cpu")


def tiny_run(*overrides: str) -> tuple[Run, Tensor]:
    """A run of a tiny model in memory, and images for it."""
    cfg = tiny(*overrides)
    module, x, _ = tiny_model(cfg)
    return Run(Path("run"), cfg, module.eval(), "best", 0), x


@pytest.mark.slow
def test_the_example_of_the_documents_runs(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / "how_to" / "load_run.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    assert len(code.splitlines()) <= 10
    shutil.copytree(trained, tmp_path / re.search(r'load_run\("(.*?)"', code).group(1))
    monkeypatch.chdir(tmp_path)
    exec(code, {})


@pytest.mark.slow
def test_the_examples_in_the_docstrings_give_what_they_say(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained, tmp_path / "outputs" / "2026-01-31" / "12-00-00")
    monkeypatch.chdir(tmp_path)
    names = {"run": load_run(trained), "np": np}
    for object_ in (load_run, Run, fit, build, VAEEstimator):
        for example in doctest.DocTestFinder().find(object_, extraglobs=names):
            assert doctest.DocTestRunner().run(example).failed == 0
        assert ">>>" in (object_.__doc__ or "")
    public = [name for name, value in vars(Run).items() if name in PUBLIC]
    assert all(">>>" in (getattr(Run, name).__doc__ or "") for name in public)
    assert len(public) == len(PUBLIC)


@pytest.mark.slow
def test_the_numbers_are_those_of_evaluate(trained: Path) -> None:
    run = load_run(str(trained))
    assert (run.checkpoint, run.step > 0) == ("best", True)
    cfg = compose("evaluate", [f"run='{trained}'", "samples=20"])
    measures = evaluate.list_measures(cfg, load_run(trained))
    (nll,) = [each.compute()["nll"] for each in measures if each.names == ("nll",)]
    assert float(-run.log_prob(run.images(), num_samples=20).mean()) == pytest.approx(nll, rel=1e-6)
    stored = torch.load(trained / runs.LAST, weights_only=True)
    last = load_run(trained, checkpoint="last")
    assert (last.checkpoint, last.step) == ("last", stored["global_step"])
    assert run.images("train").shape == (500, 1, 28, 28)
    assert run.labels("val").shape == (100,)
    with pytest.raises(ValueError, match=r"^split=dev: must be one of train, val, test"):
        run.images("dev")


@pytest.mark.slow
def test_no_data_are_needed(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    config = run / ".hydra" / "config.yaml"
    config.write_text(
        re.sub(
            r"root: .*",
            f"root: {tmp_path}/none",
            re.sub(r"mirrors:\n(\s*- .*\n)+", "mirrors: []\n", config.read_text()),
        )
    )
    assert load_run(run).sample(2).shape == (2, 1, 28, 28)


@pytest.mark.parametrize("posterior", ["diagonal_normal", "full_normal", "flow"])
def test_encode_gives_the_moments_of_draws(posterior: str) -> None:
    run, x = tiny_run(f"posterior={posterior}")
    found = run.encode(x)
    with torch.no_grad():
        z = run.module.encoder(x).transform(
            torch.randn(20_000, len(x), 2, generator=torch.Generator().manual_seed(0))
        )
    rough = posterior == "flow"  # 256 draws
    torch.testing.assert_close(found.mean, z.mean(0), rtol=0, atol=0.3 if rough else 0.05)
    torch.testing.assert_close(found.std, z.std(0), rtol=0.2 if rough else 0.03, atol=0)
    assert torch.equal(run.encode(x).std, found.std)
    for part in zip(run.encode(x[3:4]), found, strict=True):  # whatever the rest of the batch
        torch.testing.assert_close(part[0], part[1][3:4], rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(run.reconstruct(x), run.module.decoder(found.mean[None]).mean[0])


@pytest.mark.parametrize("prior", ["standard_normal", "mixture", "vamp", "flow"])
def test_samples_are_decoded_draws_of_the_prior(prior: str) -> None:
    run, _ = tiny_run(f"prior={prior}")
    images = run.sample(5)
    assert images.shape == (5, 1, 4, 4)
    assert torch.equal(images, run.sample(5, seed=0))
    assert not torch.equal(images, run.sample(5, seed=1))
    with torch.no_grad():
        z = run.module.prior(run.module.encoder).sample(20_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(run.sample(20_000).mean(0), run.decode(z).mean(0), rtol=0, atol=0.02)


def test_images_may_be_bytes_or_fractions_and_have_no_channel() -> None:
    run, x = tiny_run()
    expected = run.encode(x)
    for same in ((x * 255).round().to(torch.uint8), x[:, 0], x.double(), x.numpy()):
        torch.testing.assert_close(run.encode(same), expected)
    torch.testing.assert_close(run.encode(x[0, 0]), Moments(expected.mean[:1], expected.std[:1]))
    # an image's log p(x) does not depend on what comes after it
    torch.testing.assert_close(run.log_prob(x[:2], 50), run.log_prob(x, 50)[:2])


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            torch.rand(2, 1, 5, 4),
            r"^x: must have shape \(N, 1, 4, 4\) or .* or be one image; got \[2, 1, 5, 4\]$",
        ),
        (torch.rand(2, 3, 4, 4), r"^x: must have shape"),
        (torch.rand(16), r"^x: must have shape"),
        (torch.rand(0, 1, 4, 4), r"^x: must hold at least one image$"),
        (
            torch.full((1, 4, 4), 255.0),
            r"^x: must be uint8 in \[0, 255\] or float in \[0, 1\], but is float32 from 255 to",
        ),
        (torch.full((1, 4, 4), torch.nan), r"^x: must be finite, but 1 of its 1 images"),
        (torch.ones(1, 4, 4, dtype=torch.int64), r"^x: must be uint8 .* but is int64 from 1 to 1"),
        (
            torch.ones(1, 4, 4, dtype=torch.uint16),
            r"^x: must be uint8 .* but is uint16 from 1 to 1",
        ),
    ],
)
def test_what_cannot_be_images_is_refused(x: Tensor, message: str) -> None:
    run, _ = tiny_run()
    for call in (run.encode, run.reconstruct, run.log_prob):
        with pytest.raises(ValueError, match=message):
            call(x)


def test_pixels_outside_the_support_have_no_log_prob() -> None:
    run, x = tiny_run("likelihood=bernoulli")
    assert run.log_prob(x, 10).shape == (6,)
    with pytest.raises(ValueError, match="must be 0 and 1 only"):
        run.log_prob(x * 0.5, 10)
    assert run.encode(x * 0.5).mean.shape == (6, 2)
    gray, x = tiny_run("likelihood=bernoulli", "likelihood.gray=true")
    with pytest.raises(
        ConfigError, match=r"^log_prob: requires likelihood.gray=false: a Bernoulli"
    ):
        gray.log_prob(x, 10)


WRONG_CALLS: dict[str, Callable[[Run], object]] = {
    "count=0": lambda run: run.sample(0),
    "count=-1": lambda run: run.sample(-1),
    "count=2.5": lambda run: run.sample(2.5),
    "count=True": lambda run: run.sample(True),
    "count=3": lambda run: run.sample("3"),
    "seed=-1": lambda run: run.sample(2, seed=-1),
    "seed=x": lambda run: run.sample(2, seed="x"),
    "num_samples=0": lambda run: run.log_prob(torch.rand(4, 4), num_samples=0),
    "num_samples=1.5": lambda run: run.log_prob(torch.rand(4, 4), num_samples=1.5),
    "z: must have shape (N, 2), got (2, 3)": lambda run: run.decode(torch.zeros(2, 3)),
    "z: must have shape (N, 2), got (2,)": lambda run: run.decode(torch.zeros(2)),
    "z: must have shape (N, 2), got (0,)": lambda run: run.decode([]),
    "z: must be finite": lambda run: run.decode(torch.full((1, 2), torch.nan)),
    "z: must be numbers": lambda run: run.decode("z"),
    "z: must be numbers of": lambda run: run.decode([[1.0], [2.0, 3.0]]),
    "x=image.png: must be an image,": lambda run: run.encode("image.png"),
    "x: must be numbers of": lambda run: run.encode(None),
    "x: must have shape": lambda run: run.encode(torch.rand(16)),
    "x: must hold at least one image": lambda run: run.encode(torch.rand(0, 1, 4, 4)),
    "x: must be uint8 in": lambda run: run.encode(torch.full((1, 4, 4), 255.0)),
    "x: must be uint8": lambda run: run.encode(torch.ones(1, 4, 4, dtype=torch.int64)),
    "label: must be omitted": lambda run: run.sample(2, label=1),
    "label: must be omitted,": lambda run: run.encode(torch.rand(4, 4), label=0),
    "split=dev": lambda run: run.images("dev"),
    "split=0": lambda run: run.labels(0),
    "checkpoint=first": lambda _: load_run(".", checkpoint="first"),
    "checkpoint=None": lambda _: load_run(".", checkpoint=None),
    "run=nowhere": lambda _: load_run("nowhere"),
    "run=None": lambda _: load_run(None),
    "run=nowhere.safetensors": lambda _: load_run("nowhere.safetensors"),
    "data_root=3": lambda _: load_run("nowhere", data_root=3),
}


@pytest.mark.attack("wrong Python call")
@pytest.mark.parametrize(("message", "call"), WRONG_CALLS.items(), ids=list(WRONG_CALLS))
def test_a_wrong_call_is_refused_in_one_line(
    message: str, call: Callable[[Run], object], tiny_root: Path
) -> None:
    run, _ = tiny_run()
    if message.startswith("split"):  # the data are read
        run.cfg.data.update(root=str(tiny_root), image_shape=[1, 28, 28], val_size=100)
    with pytest.raises(ConfigError) as refused:
        call(run)
    assert str(refused.value).startswith(message)
    assert len(str(refused.value).splitlines()) == 1


def test_a_conditional_model_takes_labels() -> None:
    run, x = tiny_run("model.conditional=true")
    labels = torch.arange(6) % 3
    with torch.no_grad():
        torch.testing.assert_close(
            run.encode(x, label=labels).mean, run.module.encoder(x, Condition(labels)).mean
        )
    assert torch.equal(run.reconstruct(x, label=2), run.reconstruct(x, label=torch.full((6,), 2)))
    assert not torch.equal(run.sample(4, label=2), run.sample(4, label=3))
    assert run.sample(4, label=[1, 2, 3, 4]).shape == (4, 1, 4, 4)
    assert run.log_prob(x, 10, label=labels).isfinite().all()
    allowed = "an integer from 0 to 9, or 6 of them"
    for wrong, message in (
        (None, f"^label: must be {allowed}, because this model is conditional$"),
        (10, f"^label: must be {allowed}, got 10 to 10$"),
        (-1, f"^label: must be {allowed}, got -1"),
        (torch.arange(5), f"^label: must be {allowed}, got torch.int64 of shape"),
        (1.0, f"^label: must be {allowed}, got torch.float32"),
    ):
        with pytest.raises(ValueError, match=message):
            run.reconstruct(x, label=wrong)


def damage(run: Path, name: str) -> None:
    """Makes one thing wrong with a run folder."""
    config, best = run / ".hydra" / "config.yaml", run / runs.BEST
    if name == "none":
        shutil.rmtree(run)
    elif name == "no checkpoint":
        shutil.rmtree(run / "checkpoints")
        runs.write_status(run, "interrupted")
    elif name == "checkpoint cut":
        best.write_bytes(best.read_bytes()[:1000])
    elif name == "other checkpoint":
        torch.save({"weights": 1}, best)
    elif name == "config cut":
        config.write_text(config.read_text()[:30] + "\n :")
    elif name == "no overrides":
        (run / ".hydra" / "overrides.yaml").unlink()
    elif name == "key gone":
        config.write_text(config.read_text().replace("image_shape:", "shape:"))
    elif name == "other class":
        config.write_text(
            config.read_text().replace(
                "vae_lightning.distributions.StandardNormalPrior", "os.system"
            )
        )
    elif name == "class gone":
        config.write_text(config.read_text().replace("StandardNormalPrior", "FormerPrior"))
    elif name == "other width":
        config.write_text(config.read_text().replace("- 16", "- 17"))
    elif name == "status cut":
        (run / "status.json").write_text('{"state": ')


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "must be a run folder"),
        (
            "no checkpoint",
            r"has no checkpoint yet \(interrupted\); resume=.* continues its training",
        ),
        ("checkpoint cut", "best.ckpt is damaged; checkpoint=last may be intact"),
        ("other checkpoint", "best.ckpt is not a checkpoint of this package"),
        ("config cut", ".hydra is damaged"),
        ("no overrides", ".hydra is damaged"),
        ("key gone", r"was written by version 0.*, and version 0.* cannot build it"),
        ("other class", "_target_=os.system: must be a class that .*trust=true"),
        ("class gone", r"cannot build it \(.*no such class"),
        ("other width", "its weights do not fit its configuration; use version 0"),
        ("status cut", "status.json is damaged"),
    ],
)
def test_a_damaged_run_says_so_in_one_line(
    trained: Path, tmp_path: Path, name: str, message: str
) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    damage(run, name)
    with pytest.raises(ValueError, match=message) as error:
        load_run(run)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"^checkpoint=first: must be best or last$"):
        load_run(run, checkpoint="first")


@pytest.mark.slow
def test_an_unfinished_run_loads_with_a_warning(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    assert load_run(run).step > 0
    assert not caplog.records
    runs.write_status(run, "interrupted")
    assert load_run(run).step > 0
    assert "is not finished (interrupted); the weights are those of step 8" in caplog.text
