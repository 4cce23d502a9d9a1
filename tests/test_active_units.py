"""Active units: one number in metrics.csv, metrics.json and evaluation.json, and the alarm."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fork_server import ForkServer
from helpers import rows

FIRST = 4  # test images that the pictures show


@pytest.mark.slow
def test_all_files_count_the_same_units_although_the_shown_images_are_equal(
    server: ForkServer, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    bars = np.zeros((400, 8, 8), np.uint8)
    bars[np.arange(400), generator.integers(0, 8, 400)] = 255
    test = np.concatenate([np.repeat(bars[:1], FIRST, 0), bars[:96]])
    np.savez(tmp_path / "bars.npz", train=bars, test=test)
    words = ("data=arrays", "data.root=bars.npz", "data.val_size=0", "data.batch_size=20")
    words += ("model.latent_dim=2", "model.hidden_dims=[30]", "trainer.max_epochs=6")
    words += (f"callbacks.gallery.images={FIRST}", "optimizer.lr=0.01", "hydra.run.dir=run")
    done = server.run("train", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = server.run("evaluate", "run=run", "samples=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    metrics = json.loads((run / "metrics.json").read_text())
    evaluation = json.loads((run / "evaluation.json").read_text())
    last = float(rows(run / "metrics.csv")[-1]["latents/active_units"])
    assert last == metrics["latents/active_units"] == evaluation["active_units"] == 2
    assert json.loads((run / "status.json").read_text()) == {"state": "finished"}
