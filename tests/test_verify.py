"""The identities hold, mistakes are detected, and log p(x) of a model is its ELBO plus the gap."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from benchmarks.fork_server import ForkServer
from helpers import Command
from vae_lightning import distributions, objectives, verify
from vae_lightning.config.compose import compose
from vae_lightning.distributions import DiagonalNormal, Mixture, SquaredError, pixels
from vae_lightning.storage import run_folder as folder
from vae_lightning.training.assembly import build_module
from vae_lightning.verification.identities import (
    IDENTITIES,
    Row,
    aggregate,
    gradients,
    kl,
    linear,
    weighting,
)
from vae_lightning.verification.posterior import PosteriorCheck, check_posteriors
from vae_lightning.verification.quadrature import Grid

SMALL = (
    "data=digits",
    "model.hidden_dims=[30]",
    "trainer.max_epochs=3",
    "accelerator=cpu",
    "hydra.run.dir=run",
)


@pytest.mark.parametrize("name", IDENTITIES)
def test_every_identity_holds(name: str) -> None:
    rows = IDENTITIES[name]()
    assert rows
    assert [row for row in rows if not row.ok] == []


def test_a_row_fails_where_it_should() -> None:
    assert Row("", 1.0, 1.0 + 1e-11).ok
    assert not Row("", 1.0, 1.0 + 1e-9).ok
    assert Row("", 1.0, 2.0, 0.0, "<=").ok
    assert not Row("", 2.0, 1.0, 0.1, "<=").ok
    assert not Row("", float("nan"), 0.0).ok
    assert not Row("", float("nan"), 0.0, relation="<=").ok


def scaled(function: Callable[..., Tensor], factor: float) -> Callable[..., Tensor]:
    return lambda *arguments, **options: factor * function(*arguments, **options)


def shifted(function: Callable[..., Tensor], offset: float) -> Callable[..., Tensor]:
    return lambda *arguments, **options: function(*arguments, **options) + offset


def without_dreg(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda terms, beta=1.0, gradient="standard": function(
        terms, beta, "stl" if gradient == "dreg" else gradient
    )


# what is broken, how, and the identities that must see it
MISTAKES = {
    "half the squared error": (SquaredError, "recon", scaled(SquaredError.recon, 0.5), "the bound"),
    "a forgotten constant": (SquaredError, "log_normalizer", 0.0, "densities over x"),
    "a KL of half the size": (
        kl,
        "kl_to_standard_normal",
        scaled(kl.kl_to_standard_normal, 0.5),
        "KL divergences",
    ),
    "an iwae without log k": (
        weighting,
        "iwae",
        shifted(objectives.iwae, -0.7),
        "importance weighting",
    ),
    "an elbo with another beta": (
        gradients,
        "elbo",
        lambda terms: objectives.elbo(terms, 1.1),
        "gradients",
    ),
    "sticking the landing for dreg": (
        gradients,
        "iwae",
        without_dreg(objectives.iwae),
        "gradients",
    ),
    "a biased MMD": (aggregate, "mmd", shifted(objectives.mmd, 0.02), "the aggregate posterior"),
    "a TC without its weights": (
        aggregate,
        "total_correlation",
        lambda q, z, size: objectives.total_correlation(q, z, 100 * size),
        "the aggregate posterior",
    ),
    "log C doubled": (
        pixels,
        "log_continuous_bernoulli_normalizer",
        scaled(pixels.log_continuous_bernoulli_normalizer, 2),
        "continuous Bernoulli",
    ),
    "a mixture that is not normalized": (
        Mixture,
        "log_prob",
        shifted(Mixture.log_prob, 1e-6),
        "densities over z",
    ),
    "std for its square": (
        DiagonalNormal,
        "transform",
        lambda self, noise: self.mean + self.std.sqrt() * noise,
        "the bound",
    ),
    "a prior with another variance": (
        linear,
        "StandardNormal",
        lambda size: DiagonalNormal(torch.zeros(1, size), torch.full((1, size), 1.01)),
        "the bound",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_seen(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, name, wrong, identity = MISTAKES[mistake]
    monkeypatch.setattr(place, name, wrong)
    assert any(not row.ok for row in IDENTITIES[identity]())


@pytest.mark.parametrize("wrong", [False, True])
def test_the_exit_code_says_whether_all_hold(
    wrong: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in set(IDENTITIES) - {"discretized logistic", "densities over x"}:  # the fast ones
        monkeypatch.delitem(IDENTITIES, name)
    if wrong:
        monkeypatch.setattr(
            distributions.Laplace, "recon", shifted(distributions.Laplace.recon, 0.1)
        )
    assert command(monkeypatch=monkeypatch) == int(wrong)
    text = capsys.readouterr().out
    assert text.count("FAILED") == 2 * wrong  # its row and the count
    assert ("all 7 hold" in text) != wrong


@pytest.mark.slow
def test_the_grid_gives_the_closed_form_of_a_linear_model() -> None:
    """log p(x), ELBO, KL and posterior of 784 pixels and 2 latents; see identities.linear."""
    cfg = compose(
        "config", ["model=linear", "model.latent_dim=2", "likelihood.mean_activation=identity"]
    )
    module = build_module(cfg).eval()
    x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in module.decoder.parameters():
            parameter.mul_(2)
    weight, bias = (
        parameter.detach().double().clone() for parameter in module.decoder.parameters()
    )
    evidence = MultivariateNormal(bias, weight @ weight.T + torch.eye(784) / 2)
    inverse = (weight.T @ weight + torch.eye(2) / 2).inverse()
    posterior = MultivariateNormal((x.flatten(1).double() - bias) @ weight @ inverse, inverse / 2)
    expected = evidence.log_prob(x.flatten(1).double())
    found = list(check_posteriors(module, x))
    q = module.encoder(x.double())
    gap = kl_divergence(MultivariateNormal(q.mean, torch.diag_embed(q.std**2)), posterior)
    for result, log_p, distance in zip(found, expected.tolist(), gap.tolist(), strict=True):
        assert result.log_p == pytest.approx(log_p, abs=1e-3)
        assert result.bound == pytest.approx(log_p - distance, abs=1e-3)
        assert result.gap == pytest.approx(distance, abs=1e-3)
        assert result.error < 1e-3
        assert verify.holds(result)
        assert float(result.grid.integral(result.log_posterior.exp())) == pytest.approx(1, abs=1e-6)


def test_terms_that_do_not_add_up_are_detected() -> None:
    def check(**changes: float) -> PosteriorCheck:
        numbers = {
            "log_p": -2.0,
            "bound": -3.0,
            "gap": 1.0,
            "error": 1e-4,
            "sampled_bound": -3.0,
            "sampled_error": 0.1,
        }
        nothing = torch.zeros(3)
        return PosteriorCheck(
            **(numbers | changes),
            posterior=None,
            grid=Grid((nothing,)),
            log_posterior=nothing,
            log_q=nothing,
        )

    assert verify.holds(check())
    for wrong in ({"gap": 1.02}, {"error": 0.02}, {"sampled_bound": -2.4}, {"log_p": float("nan")}):
        assert not verify.holds(check(**wrong))


def untrained(run: Path, latents: int) -> Path:
    """A run folder as training leaves it, with initial weights."""
    cfg = compose(
        "config", ["data=digits", "model.hidden_dims=[30]", f"model.latent_dim={latents}"]
    )
    folder.write_config(run, cfg)
    folder.write_overrides(run, cfg, [])
    (run / "checkpoints").mkdir()
    torch.save({"state_dict": build_module(cfg).state_dict(), "global_step": 0}, run / folder.BEST)
    folder.write_status(run, "finished")
    return run


def command(*overrides: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code."""
    monkeypatch.setattr(sys, "argv", ["verify", *overrides])
    try:
        verify.main()
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return 0


def assert_adds_up(text: str, images: int) -> None:
    lines = [line.split() for line in text.splitlines() if line.endswith("  ok")]
    assert len(lines) == images
    for _, log_p, bound, gap, *_ in lines:
        assert float(log_p) == pytest.approx(float(bound) + float(gap), abs=0.01)
        assert float(gap) > 0


@pytest.mark.slow
def test_a_trained_run_adds_up_and_has_a_picture(
    train: Command, server: ForkServer, tmp_path: Path
) -> None:
    """A conditional model, from the command line."""
    result = train(*SMALL, "model.latent_dim=2", "model.conditional=true", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    before = sorted(tmp_path.rglob("*"))
    result = server.run("verify", "run=run", "count=2", cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert_adds_up(result.stdout, 2)
    picture = tmp_path / "run" / "pictures" / "verify.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert sorted(tmp_path.rglob("*")) == sorted([*before, picture])


def test_one_latent_dimension(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "page.png"
    run = untrained(tmp_path / "run", 1)
    assert command(f"run={run}", "count=2", f"out={picture}", monkeypatch=monkeypatch) == 0
    assert_adds_up(capsys.readouterr().out, 2)
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("latents", [3, None])
def test_what_cannot_be_verified_is_refused_in_one_line(
    latents: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = untrained(tmp_path / "run", latents) if latents else "nowhere"
    assert command(f"run={run}", monkeypatch=monkeypatch) == 2
    message = "model.latent_dim=3: must be 1 or 2" if latents else "must be a run folder"
    error = capsys.readouterr().err
    assert error.startswith(f"error: run={run}: {message}")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["count=0", "run=x"], "count=0: must be an integer >= 1"),
        (["out=a.png"], "out=a.png: requires run=RUN"),
        (["run=x", "out=a.jpg"], "out=a.jpg: must be a file that ends in .png or null"),
        (["coun=3"], "coun: no such key; did you mean count?"),
    ],
)
def test_a_wrong_value_is_refused(
    overrides: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(*overrides, monkeypatch=monkeypatch) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("verify", {"torch", "lightning", "matplotlib"}),
        ("verification.identities", {"lightning", "matplotlib", "hydra"}),
    ],
)
def test_a_module_imports_no_heavy_packages(module: str, heavy: set[str]) -> None:
    code = f"import sys, vae_lightning.{module}; print(*{heavy} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip()) == (0, ""), result.stderr
