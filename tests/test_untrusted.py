"""A run folder from somebody else: what is refused before anything of it is used."""

import importlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from helpers import configured
from vae_lightning.checks.errors import ConfigError
from vae_lightning.cli.command import configuration
from vae_lightning.config.compose import compose
from vae_lightning.runs import untrusted
from vae_lightning.runs.load import load_run
from vae_lightning.runs.stored import read_stored
from vae_lightning.storage.run_folder import write_config, write_overrides
from vae_lightning.training.assembly import build_module

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with a configuration and a checkpoint."""
    cfg = configured("model.latent_dim=2", "model.hidden_dims=[4]")
    folder = tmp_path / "run"
    write_overrides(folder, cfg, [])
    write_config(folder, cfg)
    (folder / "checkpoints").mkdir()
    stored = {"state_dict": build_module(cfg).state_dict(), "global_step": 0}
    torch.save(stored, folder / "checkpoints" / "best.ckpt")
    return folder


def edit(run: Path, change: Callable[[str], str]) -> None:
    path = run / ".hydra" / "config.yaml"
    path.write_text(change(path.read_text()))


def test_the_run_itself_is_accepted(run: Path) -> None:
    assert load_run(run).module.latent_dim == 2


@pytest.mark.attack("stored configuration with more than plain values")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text + BOMB, "aliases"),
        (lambda text: text + f"deep: {'[' * 30}{']' * 30}\n", "nested"),
        (lambda text: text + f"# {'x' * 1_100_000}\n", "characters"),
        (lambda text: text + "secret: ${oc.env:HOME}\n", "values only"),
        (lambda text: text.replace("name: mnist", 'name: "mnist\\e[2J"'), "printable"),
        (lambda text: text.replace("name: mnist", 'name: "a\\nb"'), "printable"),
        (lambda text: text + '"key\\u0007": 1\n', "printable"),
        (lambda _: "- 1\n", "mapping of keys"),
        (lambda text: text + "x: !!python/object/apply:os.system [true]\n", "damaged"),
    ],
)
def test_a_configuration_holds_plain_values(
    run: Path, change: Callable[[str], str], message: str
) -> None:
    edit(run, change)
    with pytest.raises(ConfigError, match=message) as error:
        load_run(run)
    assert str(error.value).startswith(f"run={run}: .hydra is damaged")


@pytest.mark.attack("stored configuration with more than plain values", 3)
def test_overrides_are_plain_values_too(run: Path) -> None:
    overrides = run / ".hydra" / "overrides.yaml"
    for text, message in (
        (BOMB, "aliases"),
        ("a: 1\n", "not a list"),
        ("- ${oc.env:HOME}\n", "only"),
    ):
        overrides.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_stored(run, "run")


@pytest.mark.attack("stored secret or mirror")
def test_no_secret_of_this_machine_is_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "it is this")
    edit(run, lambda text: text.replace("mirrors:", "mirrors:\n  - http://x/${oc.env:A_SECRET}"))
    with pytest.raises(ConfigError) as error:
        read_stored(run, "run")
    assert "it is this" not in str(error.value)


@pytest.mark.attack("stored secret or mirror", 2)
def test_stored_mirrors_are_not_used(run: Path) -> None:
    edit(run, lambda text: text.replace("mirrors:", "mirrors:\n  - http://elsewhere.example/"))
    own = compose("config", []).data.mirrors
    assert read_stored(run, "run").cfg.data.mirrors == own
    edit(run, lambda text: text.replace("name: mnist", "name: ../../etc/mnist"))
    assert read_stored(run, "run").cfg.data.mirrors == []


@pytest.mark.attack("link out of the run folder", 2)
@pytest.mark.parametrize("target", ["file", "folder", "missing", "relative"])
@pytest.mark.parametrize(
    "name",
    [
        "train.log",
        "status.json",
        "metrics.json",
        "metrics.csv",
        "environment.json",
        "uncommitted.patch",
        "evaluation.json",
        "checkpoints",
        "checkpoints/last.ckpt",
        "pictures",
        "pictures/samples.png",
        "tensorboard",
        "export",
        ".hydra/hydra.yaml",
    ],
)
def test_a_link_out_of_the_folder_is_refused(
    run: Path, tmp_path: Path, name: str, target: str
) -> None:
    """What the link leads to stays as it was."""
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "file").write_text("as it was")
    link = run / name
    link.parent.mkdir(exist_ok=True)
    if link.is_dir():
        os.rename(link, outside / "former")
    link.unlink(missing_ok=True)
    leads = outside / ("file" if target == "relative" else target)
    link.symlink_to(os.path.relpath(leads, link.parent) if target == "relative" else leads)
    for read in (lambda: load_run(run), lambda: read_stored(run, "run")):
        with pytest.raises(ConfigError, match=f"no link out of the folder .{name} leads to"):
            read()
    assert (outside / "file").read_text() == "as it was"
    assert list((outside / "folder").iterdir()) == []
    assert not (outside / "missing").exists()


@pytest.mark.attack("control characters in a stored text", 2)
@pytest.mark.parametrize("text", ["\x1b[2J", "a\nb", "a\rb", "\x07", "\u202eabc", "\x9b2J", "\x00"])
@pytest.mark.parametrize(
    "key", ["data.name", "data.root", "model.activation", "objective._target_", "new"]
)
def test_a_stored_text_cannot_control_the_terminal(run: Path, key: str, text: str) -> None:
    path = run / ".hydra" / "config.yaml"
    cfg = OmegaConf.load(path)
    OmegaConf.update(cfg, key, text, force_add=True)
    OmegaConf.save(cfg, path)
    for read in (lambda: load_run(run), lambda: read_stored(run, "resume")):
        with pytest.raises(ConfigError, match=r"printable|damaged") as refused:
            read()
        assert str(refused.value).isprintable()


def test_a_link_within_the_folder_is_accepted(run: Path) -> None:
    (run / "checkpoints" / "last.ckpt").symlink_to("best.ckpt")
    assert load_run(run, "last").checkpoint == "last"


@pytest.mark.attack("another value of trust")
@pytest.mark.parametrize(
    "trust", ["no", "off", "maybe", "false", "true", "", "0", 0, 1, 2, 0.0, None, [], {}]
)
def test_trust_is_true_or_false(run: Path, trust: object) -> None:
    with pytest.raises(ConfigError, match=r"trust=.*: must be true or false"):
        load_run(run, trust=trust)


@pytest.mark.attack("another value of trust")
@pytest.mark.parametrize("value", ["no", "off", "maybe", "'false'", "0", "1", "null", "[]"])
@pytest.mark.parametrize("name", ["evaluate", "explore", "export", "pictures", "replay"])
def test_trust_of_a_command_is_true_or_false(name: str, value: str) -> None:
    options = importlib.import_module(f"vae_lightning.{name}").OPTIONS
    with pytest.raises(ConfigError, match=r"trust=.*: must be true or false"):
        configuration(name, options, ["run=x", f"trust={value}"])


@pytest.mark.attack("control characters in a stored text")
def test_a_status_cannot_control_the_terminal(run: Path) -> None:
    (run / "status.json").write_text('{"state": "finished\\u001b[2J"}')
    assert read_stored(run, "run").state == "state unknown"


def test_numbers_are_read_as_hydra_reads_them() -> None:
    cfg = untrusted.read_config("a: 1e-3\nb: yes\ndata: {name: x}\n")
    assert OmegaConf.to_container(cfg)["a"] == 0.001
