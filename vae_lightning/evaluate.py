"""Evaluates a run: ``python -m vae_lightning.evaluate run=RUN``.

Estimates the NLL by importance sampling and measures the latents and the samples.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from tqdm import tqdm

from vae_lightning.checks.errors import ConfigError
from vae_lightning.checks.ranges import AutoOrBoolean, Choice, Integer, Option
from vae_lightning.cli import tables
from vae_lightning.cli.command import RUN_OPTIONS, command
from vae_lightning.config.shapes import data_with_shape
from vae_lightning.runs.stored import require_run
from vae_lightning.storage.files import write_json

if TYPE_CHECKING:
    from vae_lightning.data.images import ImageData
    from vae_lightning.evaluation.measures import Measure, Values
    from vae_lightning.runs.run import Run

log = logging.getLogger(__name__)

# with fewer samples, compiling a graph takes longer than it saves: see benchmarks/README.md
MIN_SAMPLES_TO_COMPILE = 10_000_000


OPTIONS = RUN_OPTIONS | {
    "samples": Option("importance samples per image for the NLL", Integer(1)),
    "method": Option(
        "how log p(x) is estimated: by importance sampling, or by annealed importance sampling too",
        Choice(("importance", "ais")),
    ),
    "ais.images": Option("test images, and images of the model, for method=ais", Integer(1)),
    "ais.steps": Option("temperatures for method=ais", Integer(2)),
    "ais.chains": Option("Markov chains per image for method=ais", Integer(1)),
    "prior": Option(
        "what the samples are drawn from: the prior, or also a Gaussian mixture fitted to the codes"
        " of the training images",
        Choice(("model", "gmm")),
    ),
    "against": Option(
        "another data set; reports how well log p(x) tells its images from those of the run",
        Choice((*data_with_shape(), None)),
    ),
    "pixels": Option(
        "what a sample is that is compared with the test images: the mean of p(x|z), or a draw from"
        " p(x|z)",
        Choice(("mean", "draw")),
    ),
    "compile": Option(
        "compile the decoder, on a CPU with a C++ compiler; auto: from 10 million samples in total"
        " (images times samples); changes the results only by rounding",
        AutoOrBoolean(),
    ),
}


@command("evaluate", OPTIONS)
def main(cfg: DictConfig) -> None:
    """Evaluates a run, writes RUN/evaluation.json and TensorBoard scalars, prints a table."""
    folder = Path(cfg.run)
    require_run(folder, "run")  # before the heavy imports
    from vae_lightning.runs.load import load_run

    run = load_run(folder, cfg.checkpoint, cfg.trust, cfg.data.root)
    measures = list_measures(cfg, run)
    results = {"data": run.data.name, "likelihood": run.module.decoder.description}
    results |= {"checkpoint": cfg.checkpoint, "samples": cfg.samples}
    evaluate(measures, results, folder, run.step)


def evaluate(
    measures: Sequence["Measure"], results: dict[str, object], folder: Path, step: int
) -> None:
    """Adds the measures to the results, one after the other, and says which are left out.

    The files and the table hold all that was computed, also if a later measure fails.
    """
    from torch.utils.tensorboard import SummaryWriter

    from vae_lightning.evaluation.needs import LeftOut

    left_out: dict[str, list[str]] = {}  # reason -> names
    try:
        with SummaryWriter(str(folder / "tensorboard")) as writer:
            for measure in measures:
                try:
                    found = measure.compute()
                except LeftOut as reason:
                    left_out.setdefault(str(reason), []).extend(measure.names)
                    continue
                for name, value in found.items():
                    if isinstance(value, LeftOut):
                        left_out.setdefault(str(value), []).append(name)
                    else:
                        results[name] = value
                        writer.add_scalar(f"evaluation/{name}", value, step)
                write_json(folder / "evaluation.json", results)
    finally:  # a full disk may have refused the files
        print(tables.pairs(results))
        for reason, names in left_out.items():
            log.warning("left out: %s (%s)", ", ".join(names), reason)


def list_measures(cfg: DictConfig, run: "Run") -> list["Measure"]:
    """Returns what is measured on all test images, in order; NLL and terms in nats per image.

    Raises ConfigError for an option that the run does not allow.
    """
    from vae_lightning.evaluation.measures import Measure, Measures
    from vae_lightning.runs.run import NOT_NORMALIZED

    module, data = run.module, run.data
    other = other_data(cfg, run)
    measures = Measures(module, data, cfg.pixels)
    listed = [
        Measure(("neg_elbo", "recon", "kl"), lambda: test_terms(run)),
        Measure(("nll",), lambda: measure_likelihood(cfg, run, other)),
        *measures.of_latents(),
        *measures.of_images(with_mixture=cfg.prior == "gmm"),
    ]
    if cfg.method == "ais":
        if not module.encoder.has_marginals:
            raise ConfigError("method=ais: requires posterior=diagonal_normal or full_normal")
        if not module.decoder.is_normalized:
            raise ConfigError(f"method=ais: {NOT_NORMALIZED}")
        sizes = (cfg.ais.images, cfg.ais.steps, cfg.ais.chains)
        listed.append(Measure(("ais_nll",), lambda: measures.annealed(*sizes)))
    return listed


def test_terms(run: "Run") -> dict[str, float]:
    """Returns the terms of the bound, from the code and the noise of the test after training."""
    from vae_lightning.training.trainer import build_tester

    module, data = run.module, run.data
    (terms,) = build_tester(run.cfg).test(module, data, verbose=False)
    module.eval().to(data.images["test"].device)
    return {name: terms[f"test/{name}"] for name in ("neg_elbo", "recon", "kl")}


def measure_likelihood(cfg: DictConfig, run: "Run", other: "ImageData | None") -> "Values":
    """Returns -log p(x) of all test images, and how well it tells other images apart."""
    from vae_lightning.compile.onednn import products
    from vae_lightning.evaluation.likelihood import log_likelihoods
    from vae_lightning.evaluation.needs import standard_error
    from vae_lightning.evaluation.outliers import separate
    from vae_lightning.training.summary import log_normalizer

    module, data = run.module, run.data
    hidden = not sys.stderr.isatty()
    total = (data.images_in("test") + (other.images_in("test") if other else 0)) * cfg.samples
    on_cpu = data.images["test"].device.type == "cpu"
    is_worthwhile = total >= MIN_SAMPLES_TO_COMPILE
    compiles = on_cpu and (is_worthwhile if cfg.compile == "auto" else cfg.compile)
    bar = tqdm(total=total, unit="sample", unit_scale=True, disable=hidden)
    with bar, products():
        nll = -log_likelihoods(module, data, cfg.samples, bar.update, compiles)
        apart = {}
        if other is not None:
            outside = -log_likelihoods(module, other, cfg.samples, bar.update, compiles)
            apart = separate(nll, outside, data.images["test"], other.images["test"])
    name = "nll" if module.decoder.is_normalized else "gray_cross_entropy"
    return {
        name: float(nll.mean()),
        f"{name}_se": standard_error(nll),
        "log_normalizer": log_normalizer(module),
        **apart,
    }


def other_data(cfg: DictConfig, run: "Run") -> "ImageData | None":
    """Returns the data set of the option ``against``; None without it.

    Raises ConfigError if log p(x) of its images is not defined.
    """
    from vae_lightning.evaluation.outliers import other_images

    if cfg.against is None:
        return None
    if run.module.classes or not run.module.decoder.is_normalized:
        raise ConfigError(
            f"against={cfg.against}: requires model.conditional=false and likelihood.gray=false"
        )
    return other_images(run.cfg, cfg.against)


if __name__ == "__main__":
    main()
