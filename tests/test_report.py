"""The report of a sweep from its folder alone."""

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.fork_server import ForkServer
from vae_lightning.sweeps import plots, tables


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep over beta with two finished jobs and one that failed."""
    for number, (beta, kl, recon) in enumerate(((1, 12.0, 18.0), (4, 6.0, 27.0), (9, None, None))):
        job = tmp_path / "sweep" / f"beta={beta}"
        (job / ".hydra").mkdir(parents=True)
        (job / ".hydra" / "overrides.yaml").write_text(
            f"- objective.beta={beta}\n- model.latent_dim=8\n"
        )
        failed = kl is None
        (job / "status.json").write_text(
            json.dumps({"state": "failed", "reason": "no"} if failed else {"state": "finished"})
        )
        if not failed:
            scores = {
                "test/kl": kl,
                "test/recon": recon,
                "test/neg_elbo": kl + recon,
                "latents/active_units": 8.0 - number,
            }
            (job / "metrics.json").write_text(json.dumps(scores))
    return tmp_path / "sweep"


@pytest.mark.slow
def test_report_writes_the_table_and_the_plots(folder: Path, server: ForkServer) -> None:
    result = server.run("report", f"sweep={folder}", cwd=folder.parent)
    assert result.returncode == 0, result.stderr
    with (folder / "sweep.csv").open(newline="") as file:
        rows = {row["objective.beta"]: row for row in csv.DictReader(file)}
    assert float(rows["4"]["test/neg_elbo"]) == 33
    assert (rows["9"]["state"], rows["9"]["reason"]) == ("failed", "no")
    assert "30.000" in result.stdout
    for name in ("rate_distortion", "active_units"):
        with Image.open(folder / f"{name}.png") as picture:
            assert len(set(picture.convert("L").tobytes())) > 10
    assert sorted(path.name for path in folder.parent.iterdir()) == ["sweep"]


def test_jobs_are_named_by_what_they_differ_in(folder: Path) -> None:
    rows = sorted(tables.collect(folder), key=lambda row: row["folder"])
    assert plots.labels(rows) == ["beta=1", "beta=4", "beta=9"]
    assert plots.labels(rows[:1]) == ["the job"]


def test_plots_show_the_numbers(folder: Path) -> None:
    from matplotlib.figure import Figure

    rows = sorted(tables.collect(folder), key=lambda row: row["folder"])[:2]
    axes = Figure().add_subplot()
    plots.rate_distortion(axes, rows, ["a", "b"])
    assert axes.collections[0].get_offsets().tolist() == [[12, 18], [6, 27]]
    axes = Figure().add_subplot()
    plots.active_units(axes, rows, ["a", "b"])
    assert [bar.get_width() for bar in axes.patches] == [8, 7]


@pytest.mark.slow
def test_a_folder_without_jobs_is_one_line_and_exit_2(tmp_path: Path, server: ForkServer) -> None:
    result = server.run("report", f"sweep={tmp_path}", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (
        2,
        f"error: sweep={tmp_path}: must be a sweep folder (no jobs there)\n",
    )
