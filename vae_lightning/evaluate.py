"""Evaluates a run: ``python -m vae_lightning.evaluate run=RUN``.

Estimates the NLL by importance sampling and measures the latents and the samples.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from tqdm import tqdm

from vae_lightning.checks.ranges import AutoOrBoolean, Integer, Option
from vae_lightning.cli import tables
from vae_lightning.cli.command import RUN_OPTIONS, command
from vae_lightning.runs.stored import require_run
from vae_lightning.storage.files import write_json

if TYPE_CHECKING:
    from vae_lightning.runs.run import Run

# with fewer samples, compiling a graph takes longer than it saves: see benchmarks/README.md
MIN_SAMPLES_TO_COMPILE = 10_000_000


OPTIONS = RUN_OPTIONS | {
    "samples": Option("importance samples per image for the NLL", Integer(1)),
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
    from vae_lightning.evaluation.samples import measure_samples
    from vae_lightning.training.trainer import build_tester

    module, data = run.module, run.data
    # the same code and noise as the test at the end of training
    (terms,) = build_tester(run.cfg).test(module, data, verbose=False)
    module.eval().to(data.images["test"].device)
    hidden = not sys.stderr.isatty()
    total = data.images_in("test") * cfg.samples
    on_cpu = data.images["test"].device.type == "cpu"
    is_worthwhile = total >= MIN_SAMPLES_TO_COMPILE
    compiles = on_cpu and (is_worthwhile if cfg.compile == "auto" else cfg.compile)
    bar = tqdm(total=total, unit="sample", unit_scale=True, disable=hidden)
    with bar, products():
        nll = -log_likelihoods(module, data, cfg.samples, bar.update, compiles)
    return {
        "nll": float(nll.mean()),
        "nll_se": float(nll.std() / len(nll) ** 0.5),
        **{name: terms[f"test/{name}"] for name in ("neg_elbo", "recon", "kl")},
        **measure_latents(module, data),
        **measure_samples(module, data),
    }


if __name__ == "__main__":
    main()
