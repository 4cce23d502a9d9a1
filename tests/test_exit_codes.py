"""Flags between overrides, and the exit codes: 2 for a user's mistake, 1 for a bug."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from helpers import Command
from vae_lightning import evaluate
from vae_lightning.train import main

ENCODER = """\
from torch import nn


class Slip(nn.Linear):
    def __init__(self, outputs):
        super().__init__(784, outputs)

    def forward(self, x):
        images, height, width = x.shape
        return super().forward(x.reshape(images, height * width))
"""


def run_train(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Runs the command in this process."""
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    main()


def write_model(folder: Path, name: str, **encoder: object) -> None:
    """Writes a model whose encoder is a class of the user."""
    (folder / "model").mkdir(parents=True)
    node = {
        "latent_dim": 2,
        "hidden_dims": [8],
        "encoder": {"_partial_": True, **encoder},
        "decoder": {
            "_target_": "vae_lightning.networks.MLPDecoder",
            "_partial_": True,
            "latent_dim": "${model.latent_dim}",
            "image_shape": "${data.image_shape}",
            "hidden_dims": "${model.hidden_dims}",
        },
    }
    (folder / "model" / f"{name}.yaml").write_text(yaml.safe_dump(node))


def test_flags_may_stand_between_overrides(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_train(monkeypatch, "data=digits", "--cfg", "job", "model=linear")
    cfg = yaml.safe_load(capsys.readouterr().out)
    assert cfg["data"]["name"] == "digits"
    assert "hidden_dims" not in cfg["model"]  # unlike in the default model


def test_a_config_dir_may_stand_between_overrides(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_model(tmp_path, "mine", _target_="mine.Encoder")
    flags = ("--config-dir", str(tmp_path), "--cfg", "job")
    run_train(monkeypatch, "data=digits", *flags, "model=mine")
    cfg = yaml.safe_load(capsys.readouterr().out)
    assert cfg["data"]["name"] == "digits"
    assert cfg["model"]["encoder"]["_target_"] == "mine.Encoder"


@pytest.mark.parametrize("command", [main, evaluate.main])
@pytest.mark.parametrize("arguments", [["--frobnicate"], ["seed=1", "--frobnicate", "seed=2"]])
def test_an_unknown_flag_is_one_line_and_exit_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: object,
    arguments: list[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with pytest.raises(SystemExit) as exit_:
        command()
    assert exit_.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: --frobnicate")
    assert len(output.err.splitlines()) == 1


@pytest.mark.slow
def test_a_slip_in_a_users_encoder_has_a_traceback_and_exit_1(
    train: Command, tiny_root: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(ENCODER)
    write_model(tmp_path / "conf", "slip", _target_="mine.Slip")
    choices = ("data.val_size=100", "trainer.max_epochs=1", "hydra.run.dir=run")
    flags = ("--config-dir", "conf", "model=slip")
    result = train(*choices, *flags, cwd=tmp_path, data=tiny_root)
    assert result.returncode == 1
    line = next(number for number, text in enumerate(ENCODER.splitlines(), 1) if "x.shape" in text)
    assert re.search(rf'File ".*mine\.py", line {line}, in forward', result.stderr)
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("ValueError: too many values to unpack")


@pytest.mark.slow
def test_a_refusal_of_the_package_is_one_line_and_exit_2(
    train: Command, tiny_root: Path, tmp_path: Path
) -> None:
    choices = ("data.val_size=100", "trainer.max_epochs=1", "hydra.run.dir=new/run")
    result = train(*choices, "likelihood=bernoulli", cwd=tmp_path, data=tiny_root)
    assert result.returncode == 2
    assert result.stderr.startswith("error: likelihood=bernoulli: requires data.binarization=")
    assert len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--help", "--cfg=job", "--info=all"])
def test_without_a_reader_a_command_ends_without_a_traceback(flag: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "vae_lightning.train", flag]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.slow
def test_a_sweep_without_a_reader_says_how_to_continue_it(tmp_path: Path) -> None:
    words = ["data=digits", "seed=1,2", "trainer.max_epochs=1", "hydra.sweep.dir=sweep"]
    command = [sys.executable, "-m", "vae_lightning.train", "-m", *words]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline().startswith("sweep: 2 jobs")
        process.stdout.close()  # as head does after its last line
        said = process.stderr.read()
    assert process.returncode == 1
    assert "interrupted. To continue: python -m vae_lightning.sweep resume=" in said
    assert "Traceback" not in said
    assert (tmp_path / "sweep" / "sweep.csv").is_file()
