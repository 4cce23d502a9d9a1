"""Evaluates a run: ``python -m vae_lightning.evaluate run=RUN``.

Estimates the NLL by importance sampling and measures the latents and the samples.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from tqdm import tqdm

from vae_lightning.checks.errors import ConfigError
from vae_lightning.checks.ranges import AnyOf, AutoOrBoolean, Choice, Integer, Option
from vae_lightning.cli import tables
from vae_lightning.cli.command import RUN_OPTIONS, command
from vae_lightning.config.compose import choices
from vae_lightning.runs.stored import require_run
from vae_lightning.storage.files import write_json

if TYPE_CHECKING:
    from vae_lightning.data.images import ImageData
    from vae_lightning.runs.run import Run
    from vae_lightning.training.module import VAE

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
    "sample_prior": Option(
        "what the samples are drawn from: the prior, or also a Gaussian mixture fitted to the codes"
        " of the training images",
        Choice(("model", "gmm")),
    ),
    "against": Option(
        "another data set; reports how well log p(x) tells its images from those of the run",
        AnyOf((Choice(tuple(choices("data"))), Choice((None,)))),
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
    from torch.utils.tensorboard import SummaryWriter

    from vae_lightning.runs.load import load_run

    run = load_run(folder, cfg.checkpoint, cfg.trust, cfg.data.root)
    results = {"data": run.data.name, "likelihood": run.module.decoder.description}
    results |= {"checkpoint": cfg.checkpoint, "samples": cfg.samples} | measure(cfg, run)
    print(tables.pairs(results))  # before the files, which a full disk may refuse
    write_json(folder / "evaluation.json", results)
    with SummaryWriter(str(folder / "tensorboard")) as writer:
        for name, value in results.items():
            if isinstance(value, int | float):
                writer.add_scalar(f"evaluation/{name}", value, run.step)


def measure(cfg: DictConfig, run: "Run") -> dict[str, float | int]:
    """Returns the metrics over all test images; NLL and ELBO terms in nats per image."""
    from vae_lightning.compile.onednn import products
    from vae_lightning.evaluation.latents import measure_latents
    from vae_lightning.evaluation.likelihood import log_likelihoods
    from vae_lightning.evaluation.mixture import fit_mixture
    from vae_lightning.evaluation.outliers import separate
    from vae_lightning.evaluation.samples import measure_samples
    from vae_lightning.training.summary import log_normalizer
    from vae_lightning.training.trainer import build_tester

    module, data = run.module, run.data
    # the same code and noise as the test at the end of training
    (terms,) = build_tester(run.cfg).test(module, data, verbose=False)
    module.eval().to(data.images["test"].device)
    hidden = not sys.stderr.isatty()
    other = other_data(cfg, run)
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
        f"{name}_se": float(nll.std() / len(nll) ** 0.5),
        "log_normalizer": log_normalizer(module),
        **{name: terms[f"test/{name}"] for name in ("neg_elbo", "recon", "kl")},
        **measure_latents(module, data),
        **apart,
        **measure_samples(
            module,
            data,
            cfg.pixels,
            fit_mixture(module, data) if cfg.sample_prior == "gmm" else None,
        ),
        **(measure_factors_of(module, data) if data.factors else {}),
        **(anneal(cfg, run) if cfg.method == "ais" else {}),
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


def measure_factors_of(module: "VAE", data: "ImageData") -> dict[str, float]:
    """Returns the measures of disentanglement on the test images."""
    from vae_lightning.evaluation.disentanglement import measure_factors
    from vae_lightning.evaluation.latents import posterior_means

    codes = posterior_means(module, data, "test").cpu()
    return measure_factors(codes, data.factors["test"])


def anneal(cfg: DictConfig, run: "Run") -> dict[str, float | int]:
    """Returns what annealed importance sampling says of some test images and of simulated ones."""
    from vae_lightning.evaluation import ais

    images = min(cfg.ais.images, run.data.images_in("test"))
    x, condition = run.data.inputs("test", slice(images))
    sizes = (cfg.ais.steps, cfg.ais.chains, condition)
    nll = -ais.log_p(run.module, x, *sizes)
    bounds = ais.simulated_bounds(run.module, images, *sizes)
    return {
        "ais_images": images,
        "ais_nll": float(nll.mean()),
        "ais_nll_se": float(nll.std() / images**0.5),
        "simulated_log_p_lower": float(bounds.lower.mean()),
        "simulated_log_p_upper": float(bounds.upper.mean()),
    }


if __name__ == "__main__":
    main()
