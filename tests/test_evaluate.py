"""NLL by importance sampling against exact values, and the evaluate command on a run folder."""

import functools
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import distributions

import helpers
from benchmarks.fork_server import ForkServer
from helpers import Command, tiny, tiny_model
from vae_lightning.config import metric_table
from vae_lightning.config.compose import compose
from vae_lightning.config.describe_commands import names_of
from vae_lightning.evaluation import batches, latents, likelihood, ppca
from vae_lightning.networks import UNCONDITIONAL
from vae_lightning.runs.load import load_run as load
from vae_lightning.training.assembly import build_data, build_module
from vae_lightning.training.module import VAE


def linear(root: Path) -> tuple[VAE, torch.Tensor, torch.Tensor]:
    """A linear model at the optimum of its data, 40 test images and their exact log p(x).

    All are float64, and the images have shape (40, 1, 28, 28).
    """
    cfg = compose(
        "config",
        ["experiment=ppca", "model.latent_dim=2", f"data.root={root}", "data.batch_size=100"],
    )
    cfg.trust = True
    data, module = build_data(cfg), build_module(cfg).double().eval()
    best = ppca.optimum(data.images["train"], 2)
    encoder, decoder = module.encoder.network[1][0], module.decoder.network[0][0]
    with torch.no_grad():
        for parameter, value in (
            (encoder.weight, best.encoder),
            (encoder.bias, best.offset),
            (decoder.weight, best.decoder),
            (decoder.bias, best.bias),
            (module.encoder.raw_std, torch.log(torch.expm1(best.std - 1e-6))),
        ):
            parameter.copy_(value)
    x = data.images["test"][:40].double() / 255
    covariance = best.decoder @ best.decoder.T + 0.5 * torch.eye(784, dtype=torch.float64)
    return module, x, distributions.MultivariateNormal(best.bias, covariance).log_prob(x.flatten(1))


def test_the_exact_posterior_gives_log_p_of_a_linear_model_with_one_sample(tiny_root: Path) -> None:
    module, x, exact = linear(tiny_root)
    found = likelihood.log_likelihood(module, x, torch.arange(40), samples=1)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-4)  # the noise is float32


def test_importance_sampling_comes_to_log_p_under_another_posterior(tiny_root: Path) -> None:
    module, x, exact = linear(tiny_root)
    with torch.no_grad():
        module.encoder.raw_std.add_(0.5)
    few, many = (
        likelihood.log_likelihood(module, x, torch.arange(40), samples) - exact
        for samples in (2, 4000)
    )
    assert many.abs().mean() < few.abs().mean() / 10
    # E[w] = p(x): the mean of w/p - 1 over the images is zero within its standard error
    ratio = many.exp() - 1
    assert abs(float(ratio.mean())) < 5 * float(ratio.std()) / math.sqrt(40)


def test_one_sample_is_the_elbo_of_the_same_noise(tiny_root: Path) -> None:
    module, x, _ = linear(tiny_root)
    noise = likelihood.image_noise(torch.arange(40), 1, 2, 0).double()
    with torch.no_grad():
        terms = module(x, noise)
    expected = terms.log_p - terms.log_q - terms.recon - 784 / 2 * math.log(math.pi)
    torch.testing.assert_close(
        likelihood.log_likelihood(module, x, torch.arange(40), 1), expected[0]
    )


@pytest.mark.slow
def test_the_value_does_not_depend_on_batches_or_chunks(tiny_root: Path) -> None:
    module, x, _ = linear(tiny_root)
    index = torch.arange(40)
    whole = likelihood.log_likelihood(module, x, index, samples=700)
    for rows, size in ((40, 40), (7, 3), (10**6, 11)):
        parts = [
            likelihood.log_likelihood(module, x[part], part, samples=700, rows=rows)
            for part in index.split(size)
        ]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-9)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler is installed here")
def test_a_graph_gives_the_same_value(tiny_root: Path) -> None:
    module, x, _ = linear(tiny_root)
    x, index = x.repeat(3, 1, 1, 1)[: batches.BATCH], torch.arange(batches.BATCH)
    graph, calls = likelihood.compiled(module, x, UNCONDITIONAL), []

    def counted(*inputs: torch.Tensor) -> Sequence[torch.Tensor]:
        calls.append(len(inputs[1]))
        return graph(*inputs)

    found = likelihood.log_likelihood(module, x, index, samples=110, graph=counted)
    assert calls == [25, 25, 25, 25]  # not for the last ten samples
    torch.testing.assert_close(
        found, likelihood.log_likelihood(module, x, index, samples=110), rtol=1e-12, atol=1e-9
    )


@pytest.mark.slow
def test_a_model_without_a_graph_is_named(
    tiny_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Looking(torch.nn.Module):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return network(z if float(z.mean()) < 1e9 else 2 * z)

    module, x, _ = linear(tiny_root)
    network, module.decoder.network = module.decoder.network, Looking()
    assert likelihood.compiled(module, x, UNCONDITIONAL) is None
    assert (
        caplog.text.count("compile: the estimate of log p(x) is not compiled, which is slower: ")
        == 1
    )


def test_active_units_are_counted() -> None:
    means = torch.randn(1000, 5) * torch.tensor([1.0, 0.2, 0.05, 0.0, 2.0])
    assert latents.active_units(means) == 3


def test_no_unit_of_a_flow_posterior_that_ignores_its_image_is_active() -> None:
    torch.manual_seed(0)
    module, x, _ = tiny_model(tiny("posterior=flow"))
    with torch.no_grad():
        for parameter in module.encoder.network.parameters():
            parameter.mul_(5)
        some = x[:1] * torch.linspace(0, 3, 500).view(-1, 1, 1, 1)
        assert latents.active_units(module.encoder(some).mean) > 0
        for parameter in module.encoder.network.parameters():
            parameter.zero_()
        means = module.encoder(torch.rand(500, 1, 4, 4)).mean
    assert latents.active_units(means) == 0
    assert float(means.var(0).max()) < 1e-10


@pytest.fixture(scope="module")
def finished(train: Command, tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    overrides = (
        "model.latent_dim=3",
        "model.hidden_dims=[16]",
        "data.val_size=100",
        "trainer.max_epochs=2",
    )
    result = train(*overrides, "hydra.run.dir=run", cwd=folder, data=tiny_root)
    assert result.returncode == 0, result.stderr
    return folder / "run"


@pytest.fixture(scope="module")
def evaluate(server: ForkServer) -> Command:
    return functools.partial(server.run, "evaluate")


@pytest.mark.slow
def test_evaluate_writes_what_it_found(finished: Path, evaluate: Command) -> None:
    result = evaluate(f"run={finished}", "samples=50", "compile=true", cwd=finished.parent)
    assert result.returncode == 0, result.stderr
    found = json.loads((finished / "evaluation.json").read_text())
    metrics = json.loads((finished / "metrics.json").read_text())
    assert found["nll"] <= found["neg_elbo"] + found["log_normalizer"]
    assert found["log_normalizer"] == pytest.approx(448.7341, abs=1e-4)
    assert 0 < found["nll_se"] < 10
    assert {name: found[name] for name in ("recon", "kl", "neg_elbo")} == pytest.approx(
        {name: metrics[f"test/{name}"] for name in ("recon", "kl", "neg_elbo")}
    )
    assert f"{found['nll']:.4f}" in result.stdout
    events = EventAccumulator(str(finished / "tensorboard")).Reload()
    assert events.Scalars("evaluation/nll")[0].value == pytest.approx(found["nll"])
    assert not (finished.parent / "outputs").exists()
    final = names_of([metric_table.TERMS, metric_table.FINAL])
    assert set(metrics) <= final
    assert set(helpers.rows(finished / "metrics.csv")[0]) <= final | set(metric_table.COLUMNS)
    assert set(found) <= names_of([metric_table.EVALUATION]) | {"samples"} | final


def write_bars(folder: Path, noise: float, is_inverted: bool) -> None:
    """Writes pale bars on dark gray with uniform noise, in the files of MNIST, or inverted ones."""
    (folder / "raw").mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for prefix, count in (("train", 600), ("t10k", 130)):
        labels, height = torch.arange(count) % 10, torch.arange(28)[None, :, None]
        bars = torch.exp(-0.1 * (height - 3 - 2.4 * labels[:, None, None]) ** 2).expand(-1, -1, 28)
        gray = 90 + 40 * bars + noise * (torch.rand(count, 28, 28, generator=generator) - 0.5)
        gray = 255 - gray if is_inverted else gray
        helpers.write_idx(folder / "raw" / f"{prefix}-images-idx3-ubyte", gray.round())
        helpers.write_idx(folder / "raw" / f"{prefix}-labels-idx1-ubyte", labels)


@pytest.mark.slow
def test_evaluate_tells_other_images_apart_and_corrects_for_simple_ones(
    tmp_path: Path, train: Command, evaluate: Command
) -> None:
    """Inverted images are improbable; images without noise are probable because they are simple."""
    write_bars(tmp_path / "data" / "MNIST", noise=120, is_inverted=False)
    write_bars(tmp_path / "data" / "FashionMNIST", noise=120, is_inverted=True)
    write_bars(tmp_path / "data" / "KMNIST", noise=0, is_inverted=False)
    run = helpers.train_run(
        *(train, tmp_path, tmp_path / "data", "data=mnist", "data.val_size=100"),
        *("data.batch_size=20", "trainer.max_epochs=4"),
        *("model.latent_dim=3", "model.hidden_dims=[16]"),
    )
    found = {}
    for other in ("fashion_mnist", "kmnist"):
        done = evaluate(f"run={run}", f"against={other}", "samples=20", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        found[other] = json.loads((run / "evaluation.json").read_text())
        assert f"{found[other]['auroc_nll']:.4f}" in done.stdout
    assert found["fashion_mnist"]["auroc_nll"] > 0.99
    assert found["kmnist"]["auroc_nll"] < 0.01
    assert found["kmnist"]["auroc_complexity"] > 0.99


@pytest.mark.slow
def test_a_run_that_cannot_be_read_is_one_line_and_exit_2(
    finished: Path, tmp_path: Path, evaluate: Command
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(finished, damaged)
    content = (damaged / "checkpoints" / "best.ckpt").read_bytes()
    (damaged / "checkpoints" / "best.ckpt").write_bytes(content[: len(content) // 2])
    result = evaluate(f"run={damaged}", cwd=tmp_path)
    assert result.returncode == 2
    message = f"error: run={damaged}: best.ckpt is damaged; checkpoint=last may be intact"
    assert result.stderr.strip() == message
    (damaged / "checkpoints" / "last.ckpt").unlink()
    with pytest.raises(
        ValueError, match=r"must have last.ckpt, which is written at the end of the first epoch"
    ):
        load(damaged, checkpoint="last")
    with pytest.raises(ValueError, match="must be a run folder"):
        load(tmp_path)
    config = damaged / ".hydra" / "config.yaml"
    shutil.copy(finished / "checkpoints" / "best.ckpt", damaged / "checkpoints")
    config.write_text(config.read_text().replace("- 16", "- 17"))
    with pytest.raises(ValueError, match="its weights do not fit its configuration"):
        load(damaged)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "run: must be given"),
        (["run=nowhere"], "run=nowhere: must be a run folder"),
        (["run=nowhere", "samples=0"], "samples=0: must be an integer >= 1"),
        (["run=nowhere", "compile=perhaps"], "compile=perhaps: must be auto, true or false"),
        (["run=nowhere", "sample=3"], "sample: no such key; did you mean samples?"),
    ],
)
def test_evaluate_says_what_it_needs(
    arguments: list[str], expected: str, tmp_path: Path, evaluate: Command
) -> None:
    result = evaluate(*arguments, cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith(f"error: {expected}")
    assert not list(tmp_path.iterdir())
