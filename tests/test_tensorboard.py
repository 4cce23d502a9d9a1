"""TensorBoard in a real browser shows a finished, a failed and an interrupted run."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from browser import DEEP, Browser
from helpers import Command
from vae_lightning.plots.gallery import Gallery

pytestmark = pytest.mark.slow

SMALL = (
    "model.latent_dim=2",
    "model.hidden_dims=[20]",
    "data.val_size=100",
    "trainer.max_epochs=2",
)


@pytest.fixture(scope="module")
def logs(train: Command, tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three runs."""
    folder = tmp_path_factory.mktemp("logs")
    for name, override, code in (
        ("done", "objective.beta=1", 0),
        ("failed", "optimizer.lr=1e30", 1),
    ):
        result = train(*SMALL, override, f"hydra.run.dir={name}", cwd=folder, data=tiny_root)
        assert result.returncode == code, result.stderr
    command = [sys.executable, "-m", "vae_lightning.train", *SMALL[:-1], "trainer.max_epochs=10000"]
    command += [f"data.root={tiny_root}", "hydra.run.dir=interrupted", "objective.beta=2"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("epoch   2"):
                process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    return folder


@pytest.fixture(scope="module")
def address(browser: Browser, logs: Path) -> Iterator[str]:  # noqa: ARG001 - without a browser no run is made
    """The address of TensorBoard for the three runs."""
    command = [
        sys.executable,
        "-m",
        "tensorboard.main",
        f"--logdir={logs}",
        "--port=0",
        "--host=127.0.0.1",
    ]
    command += ["--load_fast=false", "--reload_multifile=true"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout:
            if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
                break
        yield found.group()
        process.terminate()


def metrics(run: Path) -> dict[str, float]:
    return json.loads((run / "metrics.json").read_text())


def test_recon_and_kl_are_on_one_chart(address: str, browser: Browser) -> None:
    browser.open(address + "#custom_scalars")
    page = browser.wait_for("recon and KL", "-ELBO", "done/tensorboard", "interrupted/tensorboard")
    assert "Matches\n (8)" in page or "Matches (8)" in page, (
        "train and val, recon and kl, of two runs"
    )


def test_pictures_can_be_scrubbed_through(address: str, browser: Browser, logs: Path) -> None:
    browser.open(address + "#images")
    browser.wait_for(*(path.stem for path in (logs / "done" / "pictures").iterdir()))
    is_picture = "(node) => node.nodeName === 'IMG' && node.naturalWidth > 100"
    browser.until(f"({DEEP})(document.body, {is_picture}).length >= 2")


def test_hparams_compares_finished_failed_and_interrupted_runs(
    address: str, browser: Browser, logs: Path
) -> None:
    browser.open(address + "#hparams")
    found = metrics(logs / "done")
    shown = [f"{found['test/kl']:#.5g}"]
    page = browser.wait_for(
        *(f"{name}/tensorboard" for name in ("done", "failed", "interrupted")), *shown
    )
    assert page.index("objective.beta") < page.index("model.latent_dim")  # what differs is first
    assert "-1.0000" not in page
    assert "model.latent_dim" in page


def test_the_projector_shows_the_test_images(address: str, browser: Browser) -> None:
    browser.open(address + "#projector")
    page = browser.wait_for("posterior_means", "130", "Total variance described: 1")
    assert "NaN" not in page


@pytest.mark.parametrize(
    ("every", "epochs", "size", "shown"),
    [
        (1, 4, 1_000_000, [1, 2, 3, 4]),
        (1, 300, 400_000, [1, *range(6, 301, 6)]),
        (4, 300, 400_000, [4, *range(8, 301, 8), 300]),
        (1, 50, 7_000_000, [1, 18, 36, 50]),
    ],
)
def test_a_long_run_shows_as_many_pictures_as_fit(
    every: int, epochs: int, size: int, shown: list[int]
) -> None:
    gallery, found = Gallery(every, 100, 0.1), []
    for epoch in range(1, epochs + 1):
        if epoch % every and epoch != epochs:
            continue
        trainer = SimpleNamespace(current_epoch=epoch - 1, max_epochs=epochs)
        if gallery.is_shown(trainer, size):
            found.append(epoch)
        resumed = Gallery(every, 100, 0.1)
        resumed.load_state_dict(gallery.state_dict())
        gallery = resumed
    assert found == list(dict.fromkeys(shown))
    assert len(found) * size < 30_000_000
