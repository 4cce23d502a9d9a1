"""The command line end to end: run folders, resume, interruption, DDP, sweeps, errors."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from helpers import Command, assert_same_run, rows, weights, write_tiny_mnist
from vae_lightning.storage.lock import claim

pytestmark = pytest.mark.slow

SMALL = (
    "data.val_size=100",
    "model.latent_dim=3",
    "model.hidden_dims=[20]",
    "trainer.max_epochs=2",
    "accelerator=cpu",
    "trainer.threads=1",  # runs that are compared bit for bit need the same number
)
TERMS = ("loss", "recon", "kl", "neg_elbo")
FILES = {
    ".lock",
    ".hydra/config.yaml",
    ".hydra/hydra.yaml",
    ".hydra/overrides.yaml",
    "checkpoints/best.ckpt",
    "checkpoints/last.ckpt",
    "metrics.csv",
    "metrics.json",
    "environment.json",
    "status.json",
    "train.log",
    *(
        f"pictures/{name}.png"
        for name in ("reconstructions", "samples", "traversals", "kl_per_dimension")
    ),
}
SCALARS = {"train/beta", "latents/active_units", "optimizer/lr", "speed/images_per_second"}


def files(run: Path) -> set[str]:
    """Everything in a run folder but TensorBoard's."""
    inside = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert any(name.startswith("tensorboard/events") for name in inside)
    left_out = ("tensorboard/", "uncommitted.patch")  # the latter depends on the checkout
    return {name for name in inside if not name.startswith(left_out)}


@pytest.fixture(scope="module")
def finished(
    train: Command, tiny_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """A finished run of 4 epochs, and what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    result = train(*SMALL, "trainer.max_epochs=4", cwd=folder, data=tiny_root)
    assert result.returncode == 0, result.stderr
    (run,) = folder.glob("outputs/*/*")
    return run, result.stdout


def test_a_run_leaves_the_folder_of_the_contract(finished: tuple[Path, str]) -> None:
    run, _ = finished
    assert files(run) == FILES
    assert json.loads((run / "status.json").read_text()) == {"state": "finished"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d", f"{run.parent.name}/{run.name}")
    assert "${" not in (run / ".hydra" / "config.yaml").read_text()
    metrics = json.loads((run / "metrics.json").read_text())
    assert {f"{split}/{term}" for split in ("train", "val", "test") for term in TERMS} <= set(
        metrics
    )
    assert metrics["data"] == "mnist"
    assert metrics["train/beta"] == 1
    assert metrics["parameters"] == sum(value.numel() for value in weights(run).values())
    assert set(metrics) >= {
        "seconds_per_epoch",
        "images_per_second",
        "versions",
        "revision",
        "device",
    }
    assert not any(isinstance(value, dict | list) for value in metrics.values())
    for row in rows(run / "metrics.csv"):
        for split in ("train", "val"):
            recon, kl, neg_elbo = (
                float(row[f"{split}/{term}"]) for term in ("recon", "kl", "neg_elbo")
            )
            assert neg_elbo == pytest.approx(recon + kl, rel=1e-5)
            assert kl > 0


def test_the_final_table_shows_the_numbers_of_metrics_json(finished: tuple[Path, str]) -> None:
    run, text = finished
    metrics = json.loads((run / "metrics.json").read_text())
    for name, split in (("validation", "val"), ("test", "test")):
        (line,) = (line for line in text.splitlines() if line.startswith(name))
        assert [float(value) for value in line.split()[1:]] == pytest.approx(
            [metrics[f"{split}/{term}"] for term in ("recon", "kl", "neg_elbo")], abs=6e-4
        )
    assert f"tensorboard --logdir {run}" in text
    assert "500 train, 100 val, 130 test" in text
    assert "s per epoch" in text


def test_tensorboard_holds_each_term_at_each_epoch_and_the_final_metrics(
    finished: tuple[Path, str],
) -> None:
    run, _ = finished
    everything = {"scalars": 0, "images": 0, "histograms": 0}
    events = EventAccumulator(str(run / "tensorboard"), everything).Reload()
    table = rows(run / "metrics.csv")
    assert set(events.Tags()["scalars"]) == SCALARS | {
        f"{s}/{term}" for s in ("train", "val", "test") for term in TERMS
    }
    for name in ("train/recon", "train/kl", "val/neg_elbo", "latents/active_units"):
        assert [event.value for event in events.Scalars(name)] == pytest.approx(
            [float(row[name]) for row in table]
        )
        assert [event.step for event in events.Scalars(name)] == [
            int(row["step"]) - 1 for row in table
        ]
    metrics = json.loads((run / "metrics.json").read_text())
    assert [event.value for event in events.Scalars("test/kl")] == pytest.approx(
        [metrics["test/kl"]]
    )
    assert {
        "custom_scalars__config__",
        "_hparams_/session_end_info",
    } <= set(events.summary_metadata)
    started = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"model.latent_dim" in started
    assert b"squared_error" in started  # the chosen likelihood
    pictures = {
        path.removesuffix(".png").removeprefix("pictures/") for path in FILES if "pictures" in path
    }
    assert set(events.Tags()["images"]) == pictures
    steps = [int(row["step"]) - 1 for row in table]
    for name in pictures:
        assert [event.step for event in events.Images(name)] == steps
    assert [event.step for event in events.Histograms("latents/kl_per_dimension")] == steps
    projector = (run / "tensorboard" / "projector_config.pbtxt").read_text()
    (folder,) = (path for path in (run / "tensorboard").iterdir() if path.is_dir())
    assert f"{folder.name}/posterior_means/sprite.png" in projector
    assert len((folder / "posterior_means" / "tensors.tsv").read_text().splitlines()) == 130
    last = (run / "pictures" / "samples.png").read_bytes()
    assert same_pixels(events.Images("samples")[-1].encoded_image_string, last)


def same_pixels(first: bytes, second: bytes) -> bool:
    """Whether two PNG files hold the same pixels."""
    one, other = (Image.open(io.BytesIO(data)).convert("RGB") for data in (first, second))
    return one.size == other.size and one.tobytes() == other.tobytes()


def test_a_collapsed_posterior_is_an_alarm(train: Command, tiny_root: Path, tmp_path: Path) -> None:
    result = train(*SMALL, "objective.beta=1e4", "hydra.run.dir=run", cwd=tmp_path, data=tiny_root)
    assert result.returncode == 0, result.stderr
    alarm = json.loads((tmp_path / "run" / "status.json").read_text())["alarm"]
    assert alarm.startswith(
        "posterior collapse: 0 of 3 latent dimensions are active; try annealing=linear"
    )
    assert f"warning: {alarm}" in result.stderr


def test_checkpoints_load_without_pickle_and_best_is_the_best_epoch(
    finished: tuple[Path, str],
) -> None:
    run, _ = finished
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert all(
        name.split(".")[0] in ("encoder", "decoder", "prior", "objective")
        for name in best["state_dict"]
    )
    lowest = min(rows(run / "metrics.csv"), key=lambda row: float(row["val/neg_elbo"]))
    metrics = json.loads((run / "metrics.json").read_text())
    assert best["epoch"] + 1 == int(lowest["epoch"]) == metrics["epoch"]
    assert metrics["val/neg_elbo"] == float(lowest["val/neg_elbo"])


def test_resume_goes_on_bit_for_bit(
    train: Command, tiny_root: Path, finished: tuple[Path, str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert train(*SMALL, f"hydra.run.dir={run}", cwd=tmp_path, data=tiny_root).returncode == 0
    refused = train(f"resume={run}", "model.latent_dim=4", cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: model.latent_dim=4: must not change on resume")
    for overrides in ((), ("trainer.max_epochs=1",)):
        done = train(f"resume={run}", *overrides, cwd=tmp_path)
        assert (done.returncode, "is finished: 2 epochs." in done.stdout) == (0, True)
    with claim(run):
        busy = train(f"resume={run}", "trainer.max_epochs=4", cwd=tmp_path)
    assert (busy.returncode, "must not be running" in busy.stderr) == (2, True)
    result = train(f"resume={run}", "trainer.max_epochs=4", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert files(run) == FILES
    assert_same_run(run, finished[0])
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    steps = [event.step for event in events.Scalars("train/kl")]
    assert steps == [int(row["step"]) - 1 for row in rows(run / "metrics.csv")]


@pytest.mark.parametrize(("accelerator", "threads"), [("cpu", 2), ("ddp_cpu", 1)])
def test_interrupted_within_an_epoch_a_run_goes_on_bit_for_bit(
    train: Command, tiny_root: Path, tmp_path: Path, accelerator: str, threads: int
) -> None:
    length = ("trainer.max_epochs=6", "data.batch_size=20")
    many = (
        *SMALL[:3],
        f"accelerator={accelerator}",
        f"trainer.threads={threads}",
        *length,
        "data.binarization=dynamic",
        "scheduler=cosine",
    )
    environment = os.environ | {"VAE_LIGHTNING_DATA": str(tiny_root)}
    command = [sys.executable, "-m", "vae_lightning.train", *many, "hydra.run.dir=cut"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    for line in process.stderr:
        if line.startswith("epoch   3"):
            process.send_signal(signal.SIGINT)
            break
    message = process.stderr.read()
    assert process.wait() == 130
    run = tmp_path / "cut"
    assert json.loads((run / "status.json").read_text()) == {"state": "interrupted"}
    assert f"python -m vae_lightning.train resume={run}" in message
    assert "Traceback" not in message
    step = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert 75 <= step < 6 * 25
    anew = accelerator == "ddp_cpu"
    assert train("resume=cut", cwd=tmp_path, anew=anew).returncode == 0
    whole = train(*many, "hydra.run.dir=whole", cwd=tmp_path, data=tiny_root, anew=anew)
    assert whole.returncode == 0
    assert_same_run(run, tmp_path / "whole")


def test_two_processes_make_one_run_and_the_same_evaluation(
    train: Command, tiny_root: Path, tmp_path: Path
) -> None:
    # 500 = 5 * 90 + 50: the last batch is smaller
    still = (*SMALL[:4], "trainer.threads=1", "optimizer.lr=1e-30", "data.batch_size=90")
    two = train(
        *still, "accelerator=ddp_cpu", "hydra.run.dir=two", cwd=tmp_path, data=tiny_root, anew=True
    )
    assert two.returncode == 0, two.stderr
    assert (
        train(
            *still, "accelerator=cpu", "hydra.run.dir=one", cwd=tmp_path, data=tiny_root
        ).returncode
        == 0
    )
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}
    assert files(tmp_path / "two") == FILES
    one, both = (
        json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two")
    )
    for split in ("val", "test"):
        for term in TERMS:
            assert both[f"{split}/{term}"] == pytest.approx(one[f"{split}/{term}"], rel=1e-6)
    # the same images, other noise: the KL knows no noise, the reconstruction does
    assert both["train/kl"] == pytest.approx(one["train/kl"], rel=1e-5)
    assert both["train/recon"] != one["train/recon"]
    assert both["train/recon"] == pytest.approx(one["train/recon"], rel=0.02)


def test_a_sweep_runs_its_jobs_apart_and_goes_on_after_a_failure(
    train: Command, tiny_root: Path, tmp_path: Path
) -> None:
    # the callback that makes the first job fail is the user's own, from their own folder
    own = tmp_path / "own"
    (own / "callbacks").mkdir(parents=True)
    (own / "callbacks" / "strict.yaml").write_text("strict:\n  _target_: mine.Strict\n  limit: 0\n")
    (tmp_path / "mine.py").write_text(
        "from lightning.pytorch import Callback\n\n\nclass Strict(Callback):\n"
        "    def __init__(self, limit):\n"
        "        self.limit = limit\n\n"
        "    def on_validation_end(self, trainer, pl_module):\n"
        "        if float(trainer.callback_metrics['val/loss']) > self.limit:\n"
        "            raise RuntimeError('the loss is above the limit')\n"
    )
    arguments = ["-m", "--config-dir", str(own), *SMALL, "callbacks=strict"]
    grid = ["model.latent_dim=2", "callbacks.strict.limit=0,1e6"]
    result = train(*arguments, *grid, "trainer.max_epochs=1", cwd=tmp_path, data=tiny_root)
    assert result.returncode == 1, result.stderr
    (sweep,) = tmp_path.glob("outputs/sweeps/*/*")
    table = rows(sweep / "sweep.csv")
    assert [
        (row["model.latent_dim"], row["callbacks.strict.limit"], row["state"]) for row in table
    ] == [
        ("2", "1000000.0", "finished"),
        ("2", "0", "failed"),
    ]
    jobs = [path.parent for path in sweep.glob("limit*/status.json")]
    assert len(jobs) == len({job.name for job in jobs}) == 2
    assert not (sweep / "status.json").exists()
    assert "callbacks.strict.limit=0: failed: RuntimeError: the loss is above" in result.stdout
    for row in table:
        job = sweep / row["folder"]
        if row["state"] == "finished":
            assert files(job) == {
                name for name in FILES if not name.startswith("pictures")
            }  # no gallery there
            assert (
                float(row["val/neg_elbo"])
                == json.loads((job / "metrics.json").read_text())["val/neg_elbo"]
            )
        else:
            assert (
                "the loss is above the limit"
                in json.loads((job / "status.json").read_text())["reason"]
            )
    untrusted = train(f"resume={jobs[0]}", "trainer.max_epochs=9", cwd=tmp_path)
    assert untrusted.returncode == 2
    assert "mine.Strict" in untrusted.stderr
    assert "trust=true" in untrusted.stderr


def test_a_sweep_records_why_a_job_was_refused(
    train: Command, tiny_root: Path, tmp_path: Path
) -> None:
    result = train(
        "-m", *SMALL, "likelihood=bernoulli", "hydra.sweep.dir=sweep", cwd=tmp_path, data=tiny_root
    )
    assert result.returncode == 1
    (row,) = rows(tmp_path / "sweep" / "sweep.csv")
    assert row["state"] == "failed"
    assert row["reason"].startswith("likelihood=bernoulli: requires data.binarization=")


def test_a_loss_that_is_not_finite_fails_the_run_with_the_reason(
    train: Command, tiny_root: Path, tmp_path: Path
) -> None:
    result = train(*SMALL, "optimizer.lr=1e30", "hydra.run.dir=run", cwd=tmp_path, data=tiny_root)
    assert result.returncode == 1
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["state"] == "failed"
    assert status["reason"].startswith("NotFinite: recon is not finite at step 1 for ")
    assert status["reason"].removeprefix("NotFinite: ") in result.stderr
    assert "Traceback" in (tmp_path / "run" / "train.log").read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ["model.latnt_dim=3"],
        ["model=mpl"],
        ["model.latent_dim=0"],
        ["model.latent_dim"],
        ["resume=nowhere"],
        ["-m", "model.latent_dim=2,0"],
        ["hydra.run.dir=full"],
        ["trainer.gradient_clip_vall=1"],
        ["+trainer.gradient_clip_vall=1", *SMALL],
        ["--frobnicate", *SMALL],
        ["data=fashion_mnist", "data.fallback=null"],
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_line_exit_2_and_no_folder(
    train: Command, tiny_root: Path, tmp_path: Path, arguments: list[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    result = train(*arguments, cwd=tmp_path, data=tiny_root)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    assert [path.name for path in tmp_path.joinpath("full").iterdir()] == ["file"]


def test_without_files_and_network_it_trains_on_digits_and_says_so(
    train: Command, tmp_path: Path
) -> None:
    result = train("trainer.max_epochs=1", "hydra.run.dir=run", cwd=tmp_path)
    if (tmp_path / "data" / "MNIST" / "raw" / "train-images-idx3-ubyte").exists():
        pytest.skip("this machine has a network: MNIST was downloaded")
    assert result.returncode == 0, result.stderr
    assert "warning" in result.stderr
    assert "digits" in result.stderr
    assert "data          digits (1,438 train, 180 val, 179 test); NOT mnist" in result.stdout
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["data"] == "digits"
    assert "digits" in (tmp_path / "run" / "train.log").read_text()
    again = train("resume=run", "trainer.max_epochs=2", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["data"] == "digits"


def test_resume_uses_the_runs_own_data_or_refuses(train: Command, tmp_path: Path) -> None:
    write_tiny_mnist(tmp_path / "data")
    assert train(*SMALL, "trainer.max_epochs=1", "hydra.run.dir=run", cwd=tmp_path).returncode == 0
    (tmp_path / "data").rename(tmp_path / "gone")
    result = train("resume=run", "trainer.max_epochs=2", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith(
        f"error: data.root={tmp_path / 'data'}: must contain the files of mnist"
    )


def test_help_and_cfg_answer_without_heavy_imports(train: Command, tmp_path: Path) -> None:
    for flag in (["--help"], ["--cfg", "job"]):
        start = time.monotonic()
        result = train(*flag, "model=conv", cwd=tmp_path)
        assert result.returncode == 0
        assert time.monotonic() - start < 5  # about 0.5 s; a machine under load may be slow
    assert "widths:" in result.stdout
    imported = [
        sys.executable,
        "-c",
        "from vae_lightning.train import main; main()",
        "--cfg",
        "job",
        "model=conv",
    ]
    assert (
        subprocess.run(imported, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        == result.stdout
    )
    assert not list(tmp_path.iterdir())


def test_ppca_reaches_its_exact_optimum_on_mnist(
    train: Command, mnist_root: Path, tmp_path: Path
) -> None:
    short = ("trainer.max_epochs=10", "data.batch_size=128", "objective.num_samples=1")
    overrides = ("experiment=ppca", "model.latent_dim=2", *short, "accelerator=cpu")
    result = train(*overrides, "hydra.run.dir=run", cwd=tmp_path, data=mnist_root)
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["ppca/test_loss"] == pytest.approx(46.8607, abs=1e-4)
    assert 0 <= metrics["closed_form/train_loss"] - metrics["ppca/train_loss"] < 0.15
    assert metrics["test/loss"] == pytest.approx(metrics["ppca/test_loss"], abs=0.15)
    assert metrics["test/neg_elbo"] == pytest.approx(metrics["closed_form/test_loss"], abs=0.15)
