"""Writes samples of a trained model: ``python -m vae_lightning.sample run=RUN``."""

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from vae_lightning.checks.ranges import SEEDS, Choice, Integer, Option
from vae_lightning.cli.command import LABEL, RUN_OPTIONS, command
from vae_lightning.cli.outputs import FOLDER, output_of, output_option
from vae_lightning.runs.stored import require_run

if TYPE_CHECKING:
    from torch import Tensor

    from vae_lightning.plots.picture import Grid
    from vae_lightning.runs.run import Run

OPTIONS = RUN_OPTIONS | {
    "count": Option("number of samples", Integer(1)),
    "seed": Option("seed of the samples", SEEDS),
    "label": Option("class that a conditional model draws; null: all classes in turn", LABEL),
    "prior": Option(
        "what z is drawn from: the prior of the model, or a Gaussian mixture fitted to the codes of"
        " the training images",
        Choice(("model", "gmm")),
    ),
    "out": output_option("samples.png", ".png", ".npz", FOLDER),
}


@command("sample", OPTIONS)
def main(cfg: DictConfig) -> None:
    """Writes E[x|z] for draws z from the prior, and prints the path."""
    require_run(Path(cfg.run), "run")  # before the heavy imports
    output = output_of(cfg, "samples.png")
    import torch

    from vae_lightning.plots.outputs import write_images
    from vae_lightning.runs.load import load_run
    from vae_lightning.runs.selection import check_label

    run = load_run(cfg.run, cfg.checkpoint, cfg.trust, cfg.data.root)
    check_label(run, cfg.label)
    label = cfg.label
    if run.module.classes and label is None:
        label = torch.arange(cfg.count) % run.module.classes
    images = run.sample(cfg.count, cfg.seed, label, cfg.prior).cpu()
    names = [f"{number:05d}" for number in range(cfg.count)]
    arrays = {"images": images.numpy()}
    if label is not None:
        arrays["label"] = torch.as_tensor(label).expand(cfg.count).numpy()
    write_images(output, images, names, lambda: grid(cfg, run, images), arrays)
    print(f"{output}  {cfg.count} samples, seed {cfg.seed}")


def grid(cfg: DictConfig, run: "Run", images: "Tensor") -> "Grid":
    """Draws the samples in a square or, if a conditional model draws all classes, in columns."""
    import math

    from vae_lightning.plots.outputs import in_rows
    from vae_lightning.plots.picture import Grid

    classes = run.module.classes if cfg.label is None else 0
    side = math.ceil(math.sqrt(cfg.count))
    # a class has as many columns as make the picture about square
    columns = min(classes * max(1, round(side / classes)), cfg.count) if classes else side
    source = "the prior" if cfg.prior == "model" else "a Gaussian mixture of the codes"
    suffix = "" if cfg.label is None else f", class {cfg.label}"
    names = [str(column % classes) for column in range(columns)] if classes else []
    title = f"Samples E[x|z], z from {source}{suffix}"
    return Grid(in_rows(images, columns), title, run.description, columns=names)


if __name__ == "__main__":
    main()
