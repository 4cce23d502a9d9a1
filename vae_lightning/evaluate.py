"""Evaluate: ``python -m vae_lightning.evaluate run=RUN``. NLL by importance sampling, information, codes, pictures."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from tqdm import tqdm

from vae_lightning import cli, config, runs

if TYPE_CHECKING:
    from vae_lightning.loading import Loaded

COMPILED_FROM = 10_000_000  # samples of images that earn back the time of building a graph: benchmarks/README.md


def main() -> None:
    """The command line."""
    with cli.exit_codes():
        cfg = cli.command("evaluate", sys.argv[1:])
        if cfg is None:
            return
        with cli.usage(ValueError):
            if not config.whole(cfg.samples, 1):
                raise ValueError(f"samples={cfg.samples}: must be an integer >= 1")
            if not config.automatic(cfg.compile):
                raise ValueError(f"compile={cfg.compile}: must be auto, true or false")
            runs.require(Path(cfg.run), "run")  # before anything heavy is imported
            from vae_lightning import loading

            loaded = loading.load(Path(cfg.run), cfg.checkpoint, cfg.trust)
        evaluate(cfg, loaded)


def evaluate(cfg: DictConfig, loaded: "Loaded") -> None:
    """Evaluates, writes RUN/evaluation.json and TensorBoard scalars, prints the table."""
    from torch.utils.tensorboard import SummaryWriter

    run = Path(cfg.run)
    found = {"data": loaded.data.name, "likelihood": loaded.module.decoder.description}
    found |= {"checkpoint": cfg.checkpoint, "samples": cfg.samples} | measure(cfg, loaded)
    runs.write_json(run / "evaluation.json", found)
    with SummaryWriter(str(run / "tensorboard")) as writer:
        for name, value in found.items():
            if isinstance(value, int | float):
                writer.add_scalar(f"evaluation/{name}", value, loaded.step)
    width = max(len(name) for name in found)
    for name, value in found.items():
        print(f"{name:<{width}}  {value:.4f}" if isinstance(value, float) else f"{name:<{width}}  {value}")


def measure(cfg: DictConfig, loaded: "Loaded") -> dict[str, float | int]:
    """The figures over all test images; terms in nats per image."""
    from vae_lightning import evaluation, onednn, trainers

    _, module, data, _ = loaded
    trainer = trainers.build_trainer(loaded.cfg)
    (terms,) = trainer.test(module, data, verbose=False)  # the same code and noise as at the end of training
    module.eval().to(data.images["test"].device)
    hidden = not sys.stderr.isatty()
    total = data.images_in("test") * cfg.samples
    on_cpu = data.images["test"].device.type == "cpu"
    compiles = on_cpu and (total >= COMPILED_FROM if cfg.compile == "auto" else cfg.compile)
    bar = tqdm(total=total, unit="sample", unit_scale=True, disable=hidden)
    with bar, onednn.products():
        nll = -evaluation.log_likelihoods(module, data, cfg.samples, bar.update, compiles)
    return {
        "nll": float(nll.mean()),
        "nll_se": float(nll.std() / len(nll) ** 0.5),
        **{name: terms[f"test/{name}"] for name in ("neg_elbo", "recon", "kl")},
        **evaluation.codes_of(module, data),
        **evaluation.pictures_of(module, data),
    }


if __name__ == "__main__":
    main()
