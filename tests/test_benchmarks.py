"""The benchmarks: what they compute from times, and one measurement of each kind on few images."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from torchvision.datasets import MNIST

from benchmarks import images, report, run, whole
from benchmarks.measure import Timing, ratio, timed
from benchmarks.workload import CONTENDERS, Contender, Workload
from vae_lightning.config.compose import compose
from vae_lightning.data import fingerprint


def timing(*ends: float) -> Timing:
    return Timing(ends, ends[-1], 1.0)


def test_the_first_epoch_is_left_out_and_ratios_are_taken_within_a_round() -> None:
    assert timing(9.0, 11.0, 13.0, 16.0).epoch == 2.0
    assert timing(9.0).epoch == 9.0
    ours, theirs = (
        [timing(1, 3), timing(1, 11), timing(1, 2)],
        [timing(1, 5), timing(1, 21), timing(1, 2)],
    )
    assert ratio(ours, theirs) == 0.5


def test_an_exponent_is_that_of_a_power_law() -> None:
    sizes = [1, 10, 300]
    assert report.exponent(sizes, [7 * size**1.5 for size in sizes]) == pytest.approx(1.5)


@pytest.mark.slow
def test_epochs_are_seen_when_their_lines_come(tmp_path: Path) -> None:
    code = (
        "import time\n"
        "for e in range(1, 4):\n"
        "    time.sleep(0.3)\n"
        "    print(f'epoch {e}/3   train -elbo {9 - e}.5', flush=True)\n"
        "    print('epoch 9/3  50%|##  ', end='\\r')\n"
    )
    contender = Contender("sleeper", lambda *_: [sys.executable, "-c", code])
    found = timed(contender, Workload(tmp_path, epochs=3))
    assert len(found.ends) == 3
    assert found.epoch == pytest.approx(0.3, abs=0.1)
    assert found.loss == 6.5
    with pytest.raises(RuntimeError, match="sleeper: exit code 0, 3 epochs seen"):
        timed(contender, Workload(tmp_path, epochs=4))


def test_mapped_images_are_those_that_torchvision_reads(tmp_path: Path) -> None:
    root = images.write(tmp_path, 12_000)
    for train, count in ((True, 12_000), (False, 100)):
        read, mapped = MNIST(root, train=train), images.Mapped(root, train)
        assert len(read) == count
        assert (read.data == mapped.data).all()
        assert (read.targets == mapped.targets).all()


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs ``benchmarks.run`` on 600 images; the folder of its results."""
    root = images.write(tmp_path / "data", 600)
    monkeypatch.setenv("VAE_LIGHTNING_DATA", str(root))
    monkeypatch.setenv("PYTHONPATH", str(Path(run.__file__).parents[1]))
    return tmp_path / "results"


def measured(output: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(
        sys, "argv", ["run", *arguments, "--epochs", "2", "--rounds", "1", "--output", str(output)]
    )
    run.main()


@pytest.fixture
def quick_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces training by made-up times: an epoch takes a second per 100 images."""

    def timed(_: Contender, workload: Workload) -> Timing:
        read = len(MNIST(workload.root, train=True))
        return timing(9.0, 9.0 + read / 100)

    monkeypatch.setattr("benchmarks.measure.timed", timed)
    monkeypatch.setattr("benchmarks.scaling.timed", timed)


@pytest.mark.slow
def test_speed_compares_with_what_is_installed_and_names_what_is_not(
    command: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(CONTENDERS, "jax", replace(CONTENDERS["jax"], needs=("jaxx",)))
    measured(command, monkeypatch, "speed", "--against", "hand", "jax")
    page = (command / "speed.md").read_text()
    assert "left out: JAX, lax.scan requires jaxx" in capsys.readouterr().out
    rows = [
        line.split(" | ")[0].removeprefix("| ")
        for line in page.splitlines()
        if line.startswith("| ")
    ][2:]
    assert rows == ["ours", "ours, plain step", "hand-written loop"]
    assert (command / "speed.png").stat().st_size > 5_000


@pytest.mark.usefixtures("quick_times")
def test_sizes_compares_with_the_hand_written_loop(
    command: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(command, monkeypatch, "sizes", "--sizes", "IWAE k=5")
    assert "| IWAE k=5 |" in (command / "sizes.md").read_text()


@pytest.mark.usefixtures("quick_times")
def test_start_up_is_held_against_the_imports_alone(
    command: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole, "run", lambda *_: (0.7, ""))
    table = whole.start(Workload(command.parent / "data"), rounds=1)
    assert [line.split(" | ")[0] for line in table.splitlines()[2:]] == [
        "| import torch, lightning",
        "| ours, to the end of the first step",
        "| import torch, lightning and the images",
        "| `train --help`",
        "| `train --cfg job`",
    ]


@pytest.mark.slow
def test_a_command_that_fails_ends_the_measurement() -> None:
    with pytest.raises(RuntimeError, match="exit code 2"):
        whole.run("-m", "vae_lightning.train", "modle=mlp")


@pytest.mark.usefixtures("quick_times")
def test_scaling_fits_an_exponent(command: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.scaling.NUMBERS", (200, 400))
    monkeypatch.setattr("benchmarks.scaling.IMAGES", 300)
    measured(command, monkeypatch, "scaling", "--quick", "--growth", "images", "latent_dim")
    page = (command / "scaling.md").read_text()
    assert "| images | 200: 2.00" in page
    assert "| latent_dim | 2: " in page


def test_artificial_images_are_not_taken_for_damaged_files(tmp_path: Path) -> None:
    cfg = compose("config", Workload(tmp_path).overrides(tmp_path / "run"))
    assert cfg.data.name not in fingerprint.PUBLISHED  # they may have as many images as MNIST
