"""Scores images: ``python -m vae_lightning.score run=RUN``.

Writes -log p(x) and the terms of the ELBO of each image, and a page of the most unusual images.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from tqdm import tqdm

from vae_lightning.checks.errors import counted
from vae_lightning.checks.ranges import Integer, Option
from vae_lightning.cli.command import IMAGE_OPTIONS, command
from vae_lightning.cli.outputs import output_of, output_option
from vae_lightning.runs.stored import require_run
from vae_lightning.storage.files import write_csv, write_text

if TYPE_CHECKING:
    from vae_lightning.evaluation.scores import Scores
    from vae_lightning.runs.selection import Selection

OPTIONS = IMAGE_OPTIONS | {
    "samples": Option("importance samples per image", Integer(1)),
    "out": output_option("scores.csv", ".csv"),
}


@command("score", OPTIONS)
def main(cfg: DictConfig) -> None:
    """Writes the table and the page, and prints their paths."""
    require_run(Path(cfg.run), "run")  # before the heavy imports
    output = output_of(cfg, "scores.csv")
    from vae_lightning.plots import unusual
    from vae_lightning.runs.load import load_run
    from vae_lightning.runs.run import NOT_NORMALIZED
    from vae_lightning.runs.selection import select_images
    from vae_lightning.training.summary import log_normalizer

    run = load_run(cfg.run, cfg.checkpoint, cfg.trust, cfg.data.root)
    chosen = select_images(run, cfg)
    total, hidden = len(chosen.x) * cfg.samples, not sys.stderr.isatty()
    with tqdm(total=total, unit="sample", unit_scale=True, disable=hidden) as bar:
        found = run.score(chosen.x, cfg.samples, chosen.label, bar.update)
    rows = table(chosen, found)
    write_csv(Path(output), rows)
    print(f"{output}  {chosen.description}")
    note = ""
    if found.nll is None:
        note = f"There is no column nll: -log p(x) {NOT_NORMALIZED}."
    elif constant := log_normalizer(run.module):
        note = f"nll includes the constant of the likelihood, {constant:.4f}; neg_elbo does not."
    page = Path(output).with_suffix(".html")
    write_text(page, unusual.page(run, chosen, rows, note))
    count, score = min(len(rows), unusual.SHOWN), unusual.score_of(rows)
    print(f"{page}  {counted(count, 'image')} with the highest {score}")
    if note:
        print(note)


def table(chosen: "Selection", found: "Scores") -> list[dict[str, object]]:
    """Returns a row for each image: what is known about it, and its terms in nats."""
    terms = {} if found.nll is None else {"nll": found.nll}
    terms |= {"neg_elbo": found.neg_elbo, "recon": found.recon, "kl": found.kl}
    columns = {name: values.tolist() for name, values in (chosen.columns | terms).items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


if __name__ == "__main__":
    main()
