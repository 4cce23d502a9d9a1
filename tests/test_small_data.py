"""Evaluation of data with few images, without classes, and of more images than it learns from."""

import inspect
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.utils.data import Dataset

from helpers import IMAGE_SHAPE, Command, configured, tiny, tiny_model
from vae_lightning.config.compose import compose
from vae_lightning.data.images import ImageData
from vae_lightning.data.shown import shown_images
from vae_lightning.data.sources.source import Part
from vae_lightning.evaluate import evaluate, list_measures
from vae_lightning.evaluation import ais, batches, classifier, latents
from vae_lightning.evaluation.latents import AGGREGATE
from vae_lightning.evaluation.measures import Measure, Measures
from vae_lightning.evaluation.needs import LeftOut, with_classes
from vae_lightning.networks import UNCONDITIONAL, Condition
from vae_lightning.plots import gallery
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
LAYERS = {"model=hierarchical": ["posterior.upper_dims=[1]", "prior.upper_dims=[1]"]}
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


def measured(cfg: DictConfig, folder: Path, method: str = "method=ais") -> dict[str, float]:
    """What ``evaluate`` writes about a model that is not trained."""
    run = Run(folder, cfg, build_module(cfg).eval(), "best", 0)
    options = compose("evaluate", ["run=x", "samples=2", "prior=gmm", method])
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


@pytest.mark.parametrize("model", ["posterior=flow", "model=hierarchical"])
def test_measures_of_densities_without_a_closed_form_are_left_out_with_the_reason(
    model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = noise(90, 70, "classes", model, *LAYERS.get(model, ()))
    found = measured(cfg, tmp_path, "method=importance")
    assert EVERYTHING - found.keys() == {*AGGREGATE, "ais_nll_se"}
    assert (
        f"left out: {', '.join(AGGREGATE)} (requires"
        " posterior=diagonal_normal or full_normal)" in caplog.messages
    )


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
    part, again = batches.training_images(data, 20), batches.training_images(data, 20)
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


def test_annealed_importance_sampling_takes_a_random_part_of_sorted_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The labels of the test images are their positions."""
    cfg = noise(20, 300, "names", "data.classes=300", "model.conditional=true")
    data, seen = build_data(cfg), []

    def log_p(_module: object, x: Tensor, _steps: int, _chains: int, part: Condition) -> Tensor:
        assert part.label is not None
        torch.testing.assert_close(x, data.images["test"][part.label] / 255)
        seen.append(part.label)
        return torch.zeros(len(x))

    def simulated_bounds(*_: object) -> ais.Bounds:
        return ais.Bounds(torch.zeros(1), torch.zeros(1))

    monkeypatch.setattr(ais, "log_p", log_p)
    monkeypatch.setattr(ais, "simulated_bounds", simulated_bounds)
    measures = Measures(build_module(cfg), data)
    assert measures.annealed(100, 3, 2)["ais_images"] == 100
    assert measures.annealed(100, 3, 2)["ais_images"] == 100
    assert torch.equal(seen[0], seen[1])
    assert len(seen[0].unique()) == 100
    assert 25 < int((seen[0] < 150).sum()) < 75
    assert measures.annealed(1000, 3, 2)["ais_images"] == 300
    assert seen[2].tolist() == list(range(300))


def test_active_units_and_pictures_do_not_depend_on_the_order_of_the_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the test images, the first half is black and the second half white."""
    pixels = torch.zeros(3000, *IMAGE_SHAPE, dtype=torch.uint8)
    pixels[1500:] = 255
    part = Part(pixels, torch.arange(3000) // 1500)
    data = ImageData("halves", {"train": part, "val": part, "test": part}, 100, "none", 0)
    module, _, _ = tiny_model(tiny())
    with torch.no_grad():
        for parameter in module.encoder.parameters():
            parameter.mul_(5)
    found: list[float] = []
    monkeypatch.setattr(gallery, "image_data", lambda _: data)
    monkeypatch.setattr(module, "log", lambda _name, value, **_: found.append(value))
    trainer = SimpleNamespace(current_epoch=0, callback_metrics={}, is_global_zero=False)
    callback = gallery.Gallery(every_n_epochs=1, images=1000, collapse_below=0.1)
    callback.on_train_epoch_end(trainer, module)
    assert found == [2]  # the images differ
    x, _, labels = shown_images(data, 100)
    assert torch.equal(x.mean((1, 2, 3)), labels.float())
    assert 25 < int(labels.sum()) < 75
    assert sorted(shown_images(data, 9000)[2].tolist()) == 1500 * [0] + 1500 * [1]
