"""Paths on the command line are taken literally, whatever characters they have."""

from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from benchmarks.fork_server import ForkServer
from helpers import Command, write_tiny_mnist
from vae_lightning.config.compose import compose

CHARACTERS = "ab=,()[]{}~#'\"\\$ :;!*\u00e9/.-+%&|<>?@^`\t1"
NAME = "lr=0.1,x (b) [c] {d} ~e #f 'g' \u00e9"


@settings(max_examples=20, deadline=None)
@given(st.text(CHARACTERS, min_size=1, max_size=12))
def test_every_text_after_a_path_key_is_the_path(path: str) -> None:
    is_quoted = len(path) > 1 and path[0] == path[-1] and path[0] in "'\""
    assume(not is_quoted)  # as people type for Hydra
    assert compose("evaluate", [f"run={path}", f"data.root={path}"]).run == path
    assert compose("sweep", [f"status={path}"]).status == path


def test_quotes_null_and_the_variables_of_hydra_keep_their_meaning() -> None:
    assert compose("evaluate", ["run='a b'"]).run == "a b"
    assert compose("verify", ["run=null"]).run is None
    cfg = compose("config", ["hydra.run.dir=runs/${now:%Y}", "seed=3"])
    assert cfg.hydra.run.dir.startswith("runs/2")


@pytest.mark.slow
def test_a_run_in_a_folder_of_any_name_is_trained_resumed_and_read(
    train: Command, server: ForkServer, tmp_path: Path
) -> None:
    data, run = tmp_path / f"data {NAME}", f"runs/{NAME}"
    write_tiny_mnist(data)
    sizes = ("model.latent_dim=2", "model.hidden_dims=[8]", "data.val_size=50")
    for words in (
        (*sizes, "trainer.max_epochs=1", f"data.root={data}", f"hydra.run.dir={run}"),
        (f"resume={run}", "trainer.max_epochs=2"),
    ):
        done = train(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    output = f"out {NAME}"
    for command, *words in (
        ("pictures", "kind=samples", f"out={output}"),
        ("export", "format=safetensors", f"out={output}"),
        ("replay", f"out=again {NAME}"),
    ):
        done = server.run(command, f"run={run}", *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / output / "samples.png").is_file()
