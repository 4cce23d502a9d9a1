"""The commands encode, sample, reconstruct and score: their files hold what Run computes."""

import csv
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from helpers import Command, train_run
from vae_lightning import (
    encode,
    evaluate,
    export,
    load_run,
    pictures,
    reconstruct,
    sample,
    score,
    verify,
)
from vae_lightning.cli.arguments import program_arguments
from vae_lightning.networks import UNCONDITIONAL
from vae_lightning.plots import canvas
from vae_lightning.runs.run import Run

pytestmark = pytest.mark.slow

COMMANDS = {
    **{"encode": encode, "evaluate": evaluate, "reconstruct": reconstruct, "sample": sample},
    **{"score": score, "verify": verify, "pictures": pictures, "export": export},
}
SMALL = (
    "data=digits",
    "model.latent_dim=3",
    "model.hidden_dims=[32]",
    "trainer.max_epochs=5",
    "trainer.threads=1",
    "accelerator=cpu",
    "callbacks=none",
)


@pytest.fixture(scope="module")
def folder(train: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, and a run of a conditional model of binarized images."""
    folder = tmp_path_factory.mktemp("outputs")
    train_run(train, folder, folder, *SMALL)
    other = ("likelihood=bernoulli", "data.binarization=dynamic", "model.conditional=true")
    train_run(train, folder, folder, *SMALL, *other, name="binary")
    train_run(
        train, folder, folder, *SMALL, "likelihood=bernoulli", "likelihood.gray=true", name="gray"
    )
    return folder


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(folder)
    return load_run("run")


def do(line: str) -> int:
    """Runs a command in this process and returns its exit code."""
    name, *words = line.split()
    with program_arguments(words):
        try:
            COMMANDS[name].main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def arrays(path: str) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def table(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def cells(path: Path, rows: int, columns: int, size: int = 28, scale: int = 2) -> Tensor:
    """The images (R, C, H, W), uint8, of a picture, which ends with them."""
    pixels = torch.from_numpy(np.array(Image.open(path).convert("L")))
    step = size * scale + canvas.GAP
    top = len(pixels) - canvas.MARGIN + canvas.GAP - rows * step
    sheet = pixels[top : top + rows * step, canvas.MARGIN : canvas.MARGIN + columns * step]
    return sheet.unfold(0, step, step).unfold(1, step, step)[
        ..., : size * scale : scale, : size * scale : scale
    ]


def test_encode_writes_the_codes_of_all_images(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert do("encode run=run") == 0
    assert capsys.readouterr().out == "run/codes.npz  179 test images of digits\n"
    codes, expected = arrays("run/codes.npz"), run.encode(run.images())
    assert np.array_equal(codes["mean"], expected.mean)
    assert np.array_equal(codes["std"], expected.std)
    assert np.array_equal(codes["label"], run.labels())
    assert np.array_equal(codes["index"], np.arange(179))

    assert do("encode run=run out=codes.csv") == 0
    rows = table("codes.csv")
    assert list(rows[0])[:4] == ["index", "label", "mean_0", "mean_1"]
    for name in ("mean", "std"):
        values = [[float(row[f"{name}_{each}"]) for each in range(3)] for row in rows]
        assert np.array_equal(np.array(values, np.float32), codes[name])
    assert [int(row["label"]) for row in rows] == codes["label"].tolist()

    assert do("encode run=run split=val count=7 checkpoint=last out=few.npz") == 0
    few = arrays("few.npz")
    expected = load_run("run", "last").encode(run.images("val")[:7])
    assert np.allclose(few["mean"], expected.mean, atol=1e-6)
    assert np.array_equal(few["label"], run.labels("val")[:7])


def test_sample_writes_the_samples_of_the_run(run: Run) -> None:
    assert do("sample run=run count=7 seed=3") == 0
    expected = run.sample(7, seed=3)
    pixels = canvas.to_bytes(expected)[:, 0]
    found = cells(Path("run/samples.png"), 3, 3).flatten(0, 1)
    assert torch.equal(found[:7], pixels)
    assert (found[7:] == 255).all()
    first = Path("run/samples.png").read_bytes()
    assert do("sample run=run count=7 seed=3") == 0
    assert Path("run/samples.png").read_bytes() == first

    assert do("sample run=run count=7 seed=3 out=samples.npz") == 0
    assert np.array_equal(arrays("samples.npz")["images"], expected)
    assert do("sample run=run count=7 seed=3 out=samples/") == 0
    assert sorted(os.listdir("samples")) == [f"{number:05d}.png" for number in range(7)]
    assert np.array_equal(np.array(Image.open("samples/00004.png").convert("L")), pixels[4])

    assert do("sample run=run count=5 prior=gmm out=gmm.npz") == 0
    assert np.array_equal(arrays("gmm.npz")["images"], run.sample(5, prior="gmm"))
    assert do("sample run=binary count=23 out=classes.npz") == 0  # each class in turn
    classes = torch.arange(23) % 10
    assert np.array_equal(arrays("classes.npz")["label"], classes)
    binary = load_run("binary").sample(23, label=classes)
    assert np.array_equal(arrays("classes.npz")["images"], binary)
    assert do("sample run=binary count=23 out=classes.png") == 0
    assert torch.equal(cells(Path("classes.png"), 3, 10)[1], canvas.to_bytes(binary[10:20])[:, 0])


def test_reconstruct_writes_images_beside_their_reconstructions(run: Run) -> None:
    assert do("reconstruct run=run count=7") == 0
    x = run.images()[:7]
    decoded = run.reconstruct(x)
    pairs = cells(Path("run/reconstructions.png"), 2, 10).flatten(0, 1)
    assert torch.equal(pairs[:14:2], x[:, 0])
    assert torch.equal(pairs[1:14:2], canvas.to_bytes(decoded)[:, 0])
    assert do("reconstruct run=run count=7 out=pairs/") == 0
    pixels = np.array(Image.open("pairs/00002.png").convert("L"))
    assert np.array_equal(pixels, np.hstack([x[2, 0], canvas.to_bytes(decoded)[2, 0]]))
    assert do("reconstruct run=run count=null out=all.npz") == 0
    everything = arrays("all.npz")
    assert np.array_equal(everything["reconstructions"], run.reconstruct(run.images()))
    assert np.allclose(everything["images"] * 255, run.images())


def test_score_writes_the_terms_of_each_image(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert do("score run=run count=30 samples=60") == 0
    rows = table("run/scores.csv")
    assert list(rows[0]) == ["index", "label", "nll", "neg_elbo", "recon", "kl"]
    values = {name: torch.tensor([float(row[name]) for row in rows]).double() for name in rows[0]}
    torch.testing.assert_close(
        values["nll"], -run.log_prob(run.images()[:30], 60), rtol=1e-6, atol=0
    )
    torch.testing.assert_close(values["neg_elbo"], values["recon"] + values["kl"])
    normalizer = 784 / 2 * np.log(np.pi)
    assert (values["nll"] <= values["neg_elbo"] + normalizer + 0.5).all()
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "run/scores.csv  30 test images of digits"
    assert out[1] == "run/scores.html  25 images with the highest nll"
    assert out[2].startswith("nll includes the constant of the likelihood, 448.7341")

    assert do("score run=gray count=3 samples=5 out=gray.csv") == 0
    assert list(table("gray.csv")[0]) == ["index", "label", "neg_elbo", "recon", "kl"]
    assert "There is no column nll: -log p(x) requires likelihood.gray=false" in (
        capsys.readouterr().out
    )


@pytest.mark.usefixtures("run")
def test_no_log_p_of_a_gray_cross_entropy_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert do("evaluate run=gray samples=2") == 0
    found = json.loads(Path("gray/evaluation.json").read_text())
    assert {"gray_cross_entropy", "gray_cross_entropy_se"} <= set(found)
    assert not {name for name in found if "nll" in name or "log_p" in name}
    for refused in ("evaluate run=gray method=ais", "verify run=gray"):
        capsys.readouterr()
        assert do(refused) == 2
        assert ": requires likelihood.gray=false: " in capsys.readouterr().err


def test_noise_is_the_most_unusual_image_of_a_folder(run: Run) -> None:
    Path("photos").mkdir()
    for number, image in enumerate(run.images()[:6, 0]):
        Image.fromarray(image.numpy()).save(f"photos/{number}.png")
    noise = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    Image.fromarray(noise).save("photos/<noise>.png")
    assert do("score run=run images=photos samples=20 out=photos.csv") == 0
    rows = table("photos.csv")
    assert max(rows, key=lambda row: float(row["nll"]))["file"] == "<noise>.png"
    first = re.findall(r"<tr>.*?</tr>", Path("photos.html").read_text())[1]
    assert "&lt;noise&gt;.png" in first

    assert do("encode run=run images=photos out=photos.csv") == 0
    codes = table("photos.csv")
    assert [row["file"] for row in codes] == [*(f"{n}.png" for n in range(6)), "<noise>.png"]
    assert float(codes[2]["mean_0"]) == pytest.approx(
        float(run.encode(run.images()[:6]).mean[2, 0]), abs=1e-5
    )


def test_gray_test_images_give_what_the_binarized_split_gives(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save("gray test.npy", run.images()[:20])  # those of run are not binarized
    with program_arguments(["run=binary", "images=gray test.npy", "label=3", "out=new.npz"]):
        encode.main()
    assert capsys.readouterr().out == (
        "new.npz  20 images, pixels binarized at random with their value as probability\n"
    )
    assert do("encode run=binary split=test count=20 label=3 out=split.npz") == 0
    new, split = arrays("new.npz"), arrays("split.npz")
    assert np.array_equal(new["mean"], split["mean"])
    assert set(new["label"]) == {3}
    assert new["file"].tolist() == [f"gray test.npy[{number}]" for number in range(20)]
    assert do("score run=binary count=5 samples=5 out=binary.csv") == 0  # by their own labels


WRONG = {
    "encode run=run out=dangling/x.csv": "out=dangling/x.csv: must be in a folder that can be",
    "sample run=run out=dangling/": "out=dangling/: must be a new or empty folder",
    "pictures run=run out=dangling": "out=dangling: must be a folder",
    "export run=run out=text.png": "out=text.png: must be a folder",
    "encode run=run out=/proc/x.csv": "out=/proc/x.csv: must be in a folder that can be written",
    f"encode run=run out={'x' * 300}.csv": f"out={'x' * 300}.csv: must be in a folder that can",
    "encode run=run images=small.npy split=val": "split=val: must not be given with images",
    "encode run=run count=5,6": "count=5,6: must be one value; count=[5,6] is a list",
    "evaluate run=run ais.steps=5": "ais.steps=5: requires method=ais",
    "evaluate run=run against=fashion_mnst": "against=fashion_mnst: must be one of",
    "encode run=run out=codes.txt": "out=codes.txt: must be a file that ends in .npz or .csv",
    "encode run=run split=dev": "split=dev: must be one of train, val, test",
    "encode run=run label=3": "label=3: requires a model that was trained with model.conditional",
    "encode run=binary label=10": "label=10: must be an integer from 0 to 9",
    "encode run=binary images=small.npy": "label=null: must be an integer from 0 to 9, because",
    "encode run=run images=small.npy": "images=small.npy: must have shape (N, 1, 28, 28) or",
    "encode run=run images=none": "images=none: must be an image, an array file (.npz, .npy,",
    "encode run=run images=text.png": "images=text.png: must be an image",
    "encode run=run out=full.npz": "out=full.npz: must be a file, but a folder is there",
    "sample run=run count=0": "count=0: must be an integer >= 1",
    "sample run=run out=samples": "out=samples: must be a file that ends in .png or .npz, or",
    "sample run=run out=full.npz/": "out=full.npz/: must be a new or empty folder",
    "sample run=run out=text.png/": "out=text.png/: must be",
    "sample run=run label=1": "label=1: requires a model",
    "sample run=binary label=10": "label=10: must be an integer from 0 to 9",
    "reconstruct run=run out=a.jpg": "out=a.jpg: must be a file that ends in .png or .npz",
    "score run=run samples=0": "samples=0: must be an integer >= 1",
    "score run=run out=scores.npz": "out=scores.npz: must be a file that ends in .csv",
}


@pytest.mark.usefixtures("run")
def test_mistakes_are_refused_in_one_line_and_nothing_is_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    np.save("small.npy", np.zeros((2, 5, 5), np.uint8))
    Path("text.png").write_text("text")
    Path("dangling").symlink_to("nowhere")
    Path("full.npz").mkdir()
    Path("full.npz/file").write_text("")
    before = sorted(Path().rglob("*"))
    for line, message in WRONG.items():
        assert do(line) == 2, line
        error = capsys.readouterr().err
        assert error.startswith(f"error: {message}"), error
        assert error.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


def test_the_range_of_the_data_is_that_of_new_images_and_of_no_bytes(
    train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waves = np.sin(np.linspace(0, 9, 400 * 12)).reshape(400, 12).astype(np.float32)
    np.save(tmp_path / "waves.npy", waves)
    own = ("data=arrays", "data.root=waves.npy", "data.range=[-1,1]", *SMALL[1:])
    train_run(train, tmp_path, None, *own)
    monkeypatch.chdir(tmp_path)
    run = load_run("run")
    x = run.images()
    assert (x.shape, x.dtype) == ((40, 1, 1, 12), torch.float32)
    assert float(x.min()) < -0.99
    expected = run.encode(x).mean
    inputs, _ = run.data.inputs("test", slice(None))
    torch.testing.assert_close(run.module.encoder(inputs, UNCONDITIONAL).mean, expected)
    assert do("encode run=run out=split.npz") == 0
    torch.testing.assert_close(torch.from_numpy(arrays("split.npz")["mean"]), expected)
    # new images in the same range, as vectors, in a file and in memory
    np.save("some.npy", x.reshape(40, 12).numpy())
    assert do("encode run=run images=some.npy out=new.npz") == 0
    torch.testing.assert_close(torch.from_numpy(arrays("new.npz")["mean"]), expected)
    torch.testing.assert_close(run.encode(x.reshape(40, 12)).mean, expected)
    for line in ("reconstruct run=run", "score run=run samples=5", "sample run=run count=3"):
        assert do(line) == 0
    assert do("reconstruct run=run images=some.npy out=pairs.npz") == 0
    np.testing.assert_allclose(arrays("pairs.npz")["images"] * 2 - 1, x, atol=1e-6)
