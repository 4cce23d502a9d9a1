"""The report of sweeps and runs, from their folders alone."""

import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.fork_server import ForkServer
from helpers import rows
from vae_lightning.checks.errors import ConfigError
from vae_lightning.sweeps import defaults, importance, page, plots, results, tables
from vae_lightning.sweeps.plan import Plan
from vae_lightning.sweeps.results import Setting


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep over beta with two seeds; of the last beta one job failed and one never started."""
    sweep = tmp_path / "sweep"
    betas = [f"objective.beta={beta}" for beta in (1, 4, 9)]
    grid = {"objective.beta": betas, "seed": ["seed=1", "seed=2"]}
    plan = Plan(["data=digits", "data.root=/x"], [grid], {}, None, {}, {"kind": "local"})
    sweep.mkdir()
    plan.write(sweep)
    for number, job in enumerate(plan.jobs[:-1]):
        path = sweep / job.name
        write_run(path, "failed" if number == 4 else "finished", 18.0 + number, 12.0 - number / 2)
    return sweep


def write_run(path: Path, state: str, recon: float, kl: float) -> None:
    (path / ".hydra").mkdir(parents=True)
    (path / ".hydra" / "overrides.yaml").write_text("- model=conv\n- data.root=/y\n")
    (path / ".hydra" / "config.yaml").write_text("data:\n  name: digits\n  instead_of: mnist\n")
    reason = {"reason": "no"} if state == "failed" else {}
    (path / "status.json").write_text(json.dumps({"state": state, **reason}))
    terms = {"recon": recon, "kl": kl, "neg_elbo": kl + recon}
    scores = {
        f"{split}/{name}": value for split in ("val", "test") for name, value in terms.items()
    }
    content = scores | {"latents/active_units": 8.0, "data": "digits"}
    if state == "finished":
        (path / "metrics.json").write_text(json.dumps(content))
    lines = [f"{epoch},{kl + recon + 1 / epoch}" for epoch in (1, 2, 3)]
    (path / "metrics.csv").write_text("epoch,val/neg_elbo\n" + "\n".join(lines) + "\n")


@pytest.mark.slow
def test_report_writes_the_tables_and_the_plots(folder: Path, server: ForkServer) -> None:
    result = server.run("report", str(folder), cwd=folder.parent)
    assert result.returncode == 0, result.stderr
    table = rows(folder / "sweep.csv")
    assert [(row["objective.beta"], row["seed"]) for row in table[:4]] == [
        ("1", "1"), ("1", "2"), ("4", "1"), ("4", "2"),
    ]  # fmt: skip
    assert [row["state"] for row in table[4:]] == ["failed", "not started"]
    assert {row["data"] for row in table[:4]} == {"digits (not mnist)"}
    assert "data.root" not in table[0]
    assert table[4]["reason"] == "no"
    first, second = rows(folder / "summary.csv")
    assert (first["n"], first["test/recon mean"]) == ("2", "18.5")
    assert float(second["test/recon std"]) == pytest.approx(0.5**0.5)
    assert "18.50 ± 0.71" in result.stdout
    for name in ("rate_distortion", "active_units", "learning_curves"):
        with Image.open(folder / f"{name}.png") as picture:
            assert len(set(picture.convert("L").tobytes())) > 10
    assert sorted(path.name for path in folder.parent.iterdir()) == ["sweep"]


@pytest.mark.slow
def test_report_compares_sweeps_and_single_runs(folder: Path, server: ForkServer) -> None:
    write_run(folder.parent / "a=b", "finished", 10.0, 3.0)
    places = [str(folder), "a=b"]
    result = server.run("report", *places, "out=out", cwd=folder.parent)
    assert result.returncode == 0, result.stderr
    table = rows(folder.parent / "out" / "sweep.csv")
    assert (table[0]["folder"], table[0]["model"]) == ("a=b", "conv")
    assert len(table) == 7
    text = (folder.parent / "out" / "table.md").read_text()
    scores = "test recon | test KL | test -ELBO | active units"
    assert text.splitlines()[0] == f"| model | data | objective.beta | n | {scores} |"


def test_the_best_job_is_marked_and_linked(folder: Path) -> None:
    found = results.collect([folder])
    results.link_best(found, folder)
    best = (folder / "best").resolve()
    assert best.name == found[0].folder.name
    assert tables.terminal_table(found).splitlines()[1].startswith("*")


KINDS = {
    "gaussian, std learned, at least 0.01": 0.0,
    "laplace, scale learned, at least 0.01": 0.0,
    "squared error": 448.7,
    "bernoulli": 0.0,
}


@pytest.mark.parametrize(
    ("one", "other", "comparable"),
    [
        ("gaussian, std learned, at least 0.01", "laplace, scale learned, at least 0.01", True),
        ("squared error", "squared error", True),
        ("gaussian, std learned, at least 0.01", "squared error", False),
        ("gaussian, std learned, at least 0.01", "bernoulli", False),
    ],
)
def test_no_best_job_of_likelihoods_that_cannot_be_compared(
    folder: Path, one: str, other: str, comparable: bool
) -> None:
    paths = sorted(folder.glob("*/metrics.json"))
    results.link_best(results.collect([folder]), folder)
    for number, path in enumerate(paths):
        text = other if number else one
        values = json.loads(path.read_text()) | {"likelihood": text, "log_normalizer": KINDS[text]}
        path.write_text(json.dumps(values))
    found = results.collect([folder])
    results.link_best(found, folder)
    shown = tables.terminal_table(found)
    assert ("no best job: the -ELBO of different likelihoods" not in shown) == comparable
    assert ("*" in shown) == comparable
    assert (folder / "best").exists() == comparable


def test_what_was_typed_for_one_run_only_has_its_default_for_the_others(folder: Path) -> None:
    run = folder.parent / "run"
    write_run(run, "finished", 10.0, 3.0)
    config = {"data": {"name": "digits"}, "objective": {"beta": 2.0}, "seed": 7, "model": {}}
    (run / ".hydra" / "config.yaml").write_text(json.dumps(config))
    (run / ".hydra" / "overrides.yaml").write_text("- model.depth=3\n")
    (run / ".hydra" / "hydra.yaml").write_text("hydra: {runtime: {choices: {data: digits}}}")
    everything = defaults.with_defaults(results.collect([folder, run]))
    (found,) = (each for each in everything if each.folder == run)
    assert found.options == {
        "model.depth": "3", "data": "digits", "objective.beta": "2", "seed": "7",
    }  # fmt: skip
    assert [defaults.text(value) for value in (None, True, 0.5, [1, 2], "x", {})] == [
        "null", "true", "0.5", "[1,2]", "x", "",
    ]  # fmt: skip


def test_no_best_run_of_different_data(folder: Path) -> None:
    write_run(folder.parent / "run", "finished", 10.0, 3.0)
    metrics = folder.parent / "run" / "metrics.json"
    metrics.write_text(json.dumps(json.loads(metrics.read_text()) | {"data": "photos"}))
    found = results.collect([folder, folder.parent / "run"])
    assert "no best job: the -ELBO of different data" in tables.terminal_table(found)


def test_settings_are_named_by_what_they_differ_in(folder: Path) -> None:
    groups = results.settings(results.collect([folder]))
    assert results.labels([group.options for group in groups]) == ["beta=1", "beta=4"]
    assert results.labels([groups[0].options]) == [""]


def test_a_table_for_a_paper_is_valid(folder: Path) -> None:
    groups = [
        Setting({"model.latent_dim": "2"}, results.settings(results.collect([folder]))[0].results),
        Setting({"model.latent_dim": "4"}, results.settings(results.collect([folder]))[1].results),
    ]
    lines = tables.latex(groups).splitlines()
    assert lines[0] == r"\begin{tabular}{llrrrr}"
    assert (
        lines[2] == r"model.latent\_dim & n & test recon & test KL & test -ELBO & active units \\"
    )
    assert lines[4].startswith(r"2 & 2 & 18.50 $\pm$ 0.71 & ")
    assert {line.count("&") for line in lines if "&" in line} == {5}


def test_plots_show_the_numbers(folder: Path) -> None:
    groups = results.settings(results.collect([folder]))
    axes = Figure().add_subplot()
    plots.rate_distortion(axes, groups, ["a", "b"])
    means = {tuple(place) for points in axes.collections for place in points.get_offsets().tolist()}
    assert {(11.75, 18.5), (10.75, 20.5)} <= means
    axes = Figure().add_subplot()
    plots.active_units(axes, groups, ["a", "b"])
    assert [bar.get_width() for bar in axes.patches] == [8, 8]
    axes = Figure().add_subplot()
    plots.learning_curves(axes, groups, ["a", "b"])
    assert sorted(line.get_ydata()[-1] for line in axes.lines)[0] == pytest.approx(30 + 1 / 3)


def test_the_page_holds_all_jobs_and_escapes_their_texts(folder: Path) -> None:
    name = results.collect([folder])[-2].folder / "status.json"
    name.write_text(json.dumps({"state": "failed", "reason": "</script><b>"}))
    path = page.write_page(results.collect([folder]), folder)
    text = path.read_text()
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert [job["state"] for job in data["jobs"]] == ["finished"] * 4 + ["failed", "not started"]
    assert data["jobs"][4]["reason"] == "</script><b>"
    assert data["keys"] == ["objective.beta", "seed"]
    assert data["jobs"][0]["values"] == [31, 30.5, 30.333]
    assert (folder / data["jobs"][0]["href"]).is_dir()
    assert text.count("</script>") == 3
    assert len(text) < 5.5e6


def test_the_importance_is_that_of_the_option_that_decides() -> None:
    found = [
        results.Result(
            Path(), {"a": str(a), "b": b}, "finished", "", {"val/neg_elbo": a + (b == "x") / 100}
        )
        for a in range(5)
        for b in ("x", "y")
    ]
    shares = importance.importance(found, ["a", "b"], "val/neg_elbo")
    assert shares["a"] > 0.99
    assert sum(shares.values()) == pytest.approx(1, abs=1e-3)
    assert importance.importance(found[:4], ["a", "b"], "val/neg_elbo") == {}


@pytest.mark.attack("wrong command")
def test_another_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be the folder of a sweep or of a run"):
        results.collect([tmp_path])
