"""Evaluation of data with few images, without classes, and of more images than it learns from."""

import inspect
import json
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.utils.data import Dataset

from helpers import Command, configured
from vae_lightning.config.compose import compose
from vae_lightning.evaluate import evaluate, list_measures
from vae_lightning.evaluation import batches, classifier, latents
from vae_lightning.evaluation.measures import Measure
from vae_lightning.evaluation.needs import LeftOut, with_classes
from vae_lightning.networks import UNCONDITIONAL
from vae_lightning.runs.run import Run
from vae_lightning.training.assembly import build_data, build_module

# what needs no labels and no number of images
ALWAYS = {"neg_elbo", "recon", "kl", "nll", "log_normalizer", "mse", "psnr", "ssim"}
PAIRS = {"nll_se", *("active_units", "mutual_information", "marginal_kl", "total_correlation")}
PAIRS |= {"gaussian_total_correlation", "log_n", "ais_nll_se"}
OVERLAP = {f"{prefix}{name}" for prefix in ("", "gmm_") for name in ("precision", "recall")}
DISTANCE = {"frechet_distance", "gmm_frechet_distance"}
NEIGHBORS = "nearest_neighbors_accuracy"
NEEDS_CLASSES = OVERLAP | DISTANCE | {NEIGHBORS, "linear_probe_accuracy", "classifier_accuracy"}
EVERYTHING = ALWAYS | PAIRS | NEEDS_CLASSES


class Noise(Dataset):
    """Random gray images of 12 x 12 pixels, with labels of one kind."""

    def __init__(self, root: Path, train: bool, counts: list[int], labels: str) -> None:
        generator = torch.Generator().manual_seed(int(train))
        count = counts[0] if train else counts[1]
        shape = (count, 12, 12)
        self.data = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        index = torch.arange(count)
        self.targets = {
            "classes": index % 3,
            "bytes": (index % 3 + 250).to(torch.uint8),
            "one": torch.zeros(count, dtype=torch.int64),
            "floats": index / 7,
            "names": index,
        }[labels]


def noise(train: int, test: int, labels: str = "classes", *overrides: str) -> DictConfig:
    """A configuration of a tiny model and of these images."""
    cfg = configured(
        *("data=digits", "data.image_shape=[1,12,12]", "data.classes=null"),
        *("data.val_size=0", "data.batch_size=1"),
        *("model.latent_dim=2", "model.hidden_dims=[4]", "accelerator=cpu", *overrides),
    )
    cfg.data.name = "noise"
    cfg.data.dataset = {
        "_target_": f"{__name__}.Noise",
        "_partial_": True,
        "counts": [train, test],
        "labels": labels,
    }
    return cfg


def measured(cfg: DictConfig, folder: Path) -> dict[str, float]:
    """What ``evaluate`` writes about a model that is not trained."""
    run = Run(folder, cfg, build_module(cfg).eval(), "best", 0)
    options = compose("evaluate", ["run=x", "samples=2", "prior=gmm", "method=ais"])
    options.ais.update(images=3, steps=3, chains=2)
    evaluate(list_measures(options, run), {}, folder, 0)
    return json.loads((folder / "evaluation.json").read_text())


@pytest.mark.parametrize(
    ("train", "test", "labels", "missing", "reasons"),
    [
        (90, 70, "bytes", set(), []),
        (
            90,
            3,
            "classes",
            OVERLAP | DISTANCE,
            ["least 65 test", "least 4 test images, there are 3"],
        ),
        (90, 1, "classes", OVERLAP | DISTANCE | PAIRS, ["at least 2 images", "2 test images"]),
        (3, 70, "classes", {NEIGHBORS}, ["at least 5 training images"]),
        (90, 70, "one", NEEDS_CLASSES, ["different values, the training images have one"]),
        # they count as images without labels
        (90, 70, "floats", NEEDS_CLASSES, ["different values, the training images have one"]),
        (1001, 70, "names", NEEDS_CLASSES, ["at most 1000 classes, there are 1001 values"]),
    ],
)
def test_what_has_no_meaning_for_the_data_is_left_out_with_the_reason(
    train: int,
    test: int,
    labels: str,
    missing: set[str],
    reasons: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = measured(noise(train, test, labels), tmp_path)
    assert EVERYTHING - found.keys() == missing
    lines = [line for line in caplog.messages if line.startswith("left out: ")]
    assert all(any(reason in line for line in lines) for reason in reasons)
    said = {name for line in lines for name in line.split(" (")[0][len("left out: ") :].split(", ")}
    assert said == missing


def test_a_measure_that_fails_loses_nothing_that_was_computed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> dict[str, float]:
        raise ZeroDivisionError

    def leave_out() -> dict[str, float]:
        raise LeftOut("requires more")

    measures = [
        Measure(("a",), lambda: {"a": 1.5}),
        Measure(("b",), leave_out),
        Measure(("c",), fail),
        Measure(("d",), lambda: {"d": 1}),
    ]
    with pytest.raises(ZeroDivisionError):
        evaluate(measures, {"data": "x"}, tmp_path, 0)
    assert json.loads((tmp_path / "evaluation.json").read_text()) == {"data": "x", "a": 1.5}
    assert "a     1.5000" in capsys.readouterr().out
    assert "left out: b (requires more)" in caplog.text


def test_classes_are_numbered_and_an_unknown_one_is_never_right() -> None:
    images = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    training = batches.TrainingImages(images, torch.tensor([-5, 300, 7, 7]), UNCONDITIONAL)
    numbered, test = with_classes(training, torch.tensor([300, 8, 7, -5, -6, 999]))
    assert numbered.labels.tolist() == [0, 2, 1, 1]
    assert test.tolist() == [2, -1, 1, 0, -1, -1]


@pytest.mark.parametrize("binarization", ["none", "dynamic"])
def test_of_many_training_images_a_fixed_part_is_used(
    binarization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = build_data(noise(50, 4, "names", f"data.binarization={binarization}"))
    everything = batches.training_images(data)
    assert torch.equal(everything.images, data.evaluation_images("train"))
    monkeypatch.setattr(batches, "MOST_IMAGES", 20)
    part, again = batches.training_images(data), batches.training_images(data)
    assert len(part.images) == len(part.labels.unique()) == 20
    assert torch.equal(part.images, again.images)
    assert part.labels.tolist() != sorted(part.labels.tolist())  # sorted images are mixed
    if binarization == "none":
        assert torch.equal(part.images, data.images["train"][part.labels])
    else:
        assert set(part.images.unique().tolist()) == {0, 255}
    monkeypatch.setattr(batches, "MOST_BYTES", 144 * 6)
    assert len(batches.training_images(data).images) == 6


def test_no_more_than_a_batch_of_large_images_becomes_float(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batches, "BATCH", 2)
    monkeypatch.setattr(batches, "PIXELS_AT_ONCE", 144 * 5)
    data = build_data(noise(11, 12))
    module = build_module(noise(11, 12))
    sizes: list[int] = []
    handle = module.encoder.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    means = latents.posterior_means(module, data, "test")
    handle.remove()
    assert sizes == [5, 5, 2]
    with torch.no_grad():
        expected = module.encoder(data.images["test"].float() / 255).mean
    torch.testing.assert_close(means, expected)


def test_features_do_not_depend_on_how_images_are_given() -> None:
    training = batches.training_images(build_data(noise(30, 4)))
    model = classifier.Classifier(1, 3)
    x: Tensor = training.images.float() / 255
    torch.testing.assert_close(
        classifier.features_of(model, training.images), classifier.features_of(model, x)
    )


@pytest.mark.slow
@pytest.mark.parametrize(("test", "labels"), [(1, "one"), (3, "floats")])
def test_a_run_on_few_images_is_trained_and_tested(
    test: int, labels: str, train: Command, tmp_path: Path
) -> None:
    (tmp_path / "conf" / "data").mkdir(parents=True)
    node = noise(20, test, labels).data
    node.batch_size, node.val_size, node.dataset._target_ = 5, 2, "mine.Noise"
    imports = "from pathlib import Path\nimport torch\nfrom torch.utils.data import Dataset\n"
    (tmp_path / "mine.py").write_text(imports + inspect.getsource(Noise))
    OmegaConf.save(node, tmp_path / "conf" / "data" / "noise.yaml")
    done = train(
        *("--config-dir", "conf", "data=noise", "model.hidden_dims=[4]", "trainer.max_epochs=1"),
        *("model.latent_dim=2", "hydra.run.dir=run", "accelerator=cpu"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "metrics.json").is_file()
    assert (tmp_path / "run" / "pictures" / "latents.png").is_file() == (test > 1)
