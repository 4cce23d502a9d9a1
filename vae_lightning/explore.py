"""Writes an interactive page: ``python -m vae_lightning.explore run=RUN``.

The page is one HTML file; dragging a point through the latent space decodes it in the browser.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from tqdm import tqdm

from vae_lightning.checks.errors import ConfigError
from vae_lightning.checks.ranges import AnyOf, Choice, Integer, Option, Text
from vae_lightning.cli.command import RUN_OPTIONS, command
from vae_lightning.runs.stored import require_run
from vae_lightning.storage.files import read_json, write_text

if TYPE_CHECKING:
    from vae_lightning.explorer.encoded import Encoded
    from vae_lightning.explorer.translate import Op
    from vae_lightning.runs.run import Run

IMAGE_BYTES = 50_000_000  # of the images on the page, with mean and std of q(z|x) in float32
NUM_REFERENCES = 4  # images decoded by PyTorch, with which the page compares its own decoder


OPTIONS = RUN_OPTIONS | {
    "count": Option(
        "number of test images, the first of the test set; at most 50 MB of them", Integer(1)
    ),
    "output": Option(
        "the page; null: RUN/pictures/explore.html",
        AnyOf((Text("a file that ends in .html", ".html"), Choice((None,)))),
    ),
}


@command("explore", OPTIONS)
def main(cfg: DictConfig) -> None:
    """Writes the page and prints its path."""
    require_run(Path(cfg.run), "run")  # before the heavy imports
    from vae_lightning.explorer.translate import translate
    from vae_lightning.runs.load import load_run

    run = load_run(cfg.run, cfg.checkpoint, cfg.trust, cfg.data.root)
    try:
        ops, classes = translate(run.module.decoder, run.module.latent_dim)
    except ConfigError as error:
        raise ConfigError(f"run={cfg.run}: {error}") from error
    print(f"page  {explore(cfg, run, ops, classes)}")


def explore(cfg: DictConfig, run: "Run", ops: list["Op"], classes: int) -> Path:
    """Encodes the test images, writes the page and returns its path."""
    from vae_lightning.data.shown import label_names
    from vae_lightning.explorer import encoded, page

    wanted = min(cfg.count, run.data.images_in("test"))
    count = min(wanted, max(1, IMAGE_BYTES // (run.data.pixels + 8 * run.module.latent_dim)))
    if count < wanted:
        print(
            f"images  {count} of {wanted}, because more than 50 MB of them would slow the page down"
        )
    with tqdm(total=count, unit="image", disable=not sys.stderr.isatty()) as bar:
        found = encoded.encode(run.module, run.data, count, bar.update)
    content = {
        "title": run.description,
        "facts": facts(cfg, run),
        "likelihood": run.module.decoder.description,
        "names": label_names(run.data.class_names, max(int(found.labels.max()) + 1, classes)),
        "classes": classes,
        "reference": reference(run, found),
        "decoder": page.decoder_content(ops),
        **page.encoded_content(found),
    }
    output = Path(cfg.output or Path(cfg.run, "pictures", "explore.html"))
    write_text(output, page.render(content, run.description))
    return output


def reference(run: "Run", found: "Encoded") -> str:
    """Returns the reconstructions of the first images by PyTorch, encoded in base64."""
    import torch

    from vae_lightning.explorer.page import base64_of

    _, condition = run.data.inputs("test", slice(NUM_REFERENCES))
    with torch.no_grad():
        z = found.mean[:NUM_REFERENCES].unsqueeze(0)  # (1, N, L)
        return base64_of(run.module.decoder(z, condition).mean)


def facts(cfg: DictConfig, run: "Run") -> list[tuple[str, str]]:
    """Returns (name, value with unit) pairs that describe the model.

    They include the test metrics of the run if these belong to the loaded checkpoint.
    """
    count = sum(parameter.numel() for parameter in run.module.parameters())
    found = [("parameters", f"{count:,}")]
    metrics = read_json(Path(cfg.run) / "metrics.json")
    if metrics.get("checkpoint") == cfg.checkpoint and "test/recon" in metrics:
        terms = {"\u2212ELBO": "test/neg_elbo", "recon": "test/recon", "KL": "test/kl"}
        tests = [(f"test {name}", f"{metrics[key]:.2f} nats") for name, key in terms.items()]
        found = tests + found
    return [*found, ("checkpoint", cfg.checkpoint)]


if __name__ == "__main__":
    main()
