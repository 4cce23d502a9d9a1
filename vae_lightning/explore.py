"""Explore: ``python -m vae_lightning.explore run=RUN``. One HTML file in which the latent space is dragged through."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from tqdm import tqdm

from vae_lightning import cli, config, runs

if TYPE_CHECKING:
    from vae_lightning.explorer.encoded import Encoded
    from vae_lightning.explorer.translate import Op
    from vae_lightning.loading import Loaded

REFERENCES = 4  # images whose pixels by PyTorch the page holds, to compare its own with


def main() -> None:
    """The command line."""
    with cli.exit_codes():
        cfg = cli.command("explore", sys.argv[1:])
        if cfg is None:
            return
        with cli.usage(ValueError):
            check(cfg)
            loaded, ops, classes = load(cfg)
        print(f"page  {explore(cfg, loaded, ops, classes)}")


def check(cfg: DictConfig) -> None:
    """Raises ValueError for what can be seen to be wrong before anything heavy is imported."""
    if not config.whole(cfg.images, 1):
        raise ValueError(f"images={config.show(cfg.images)}: must be an integer >= 1")
    if cfg.output is not None and Path(cfg.output).suffix != ".html":
        raise ValueError(f"output={cfg.output}: must end in .html")
    runs.read_config(Path(cfg.run), "run")


def load(cfg: DictConfig) -> tuple["Loaded", list["Op"], int]:
    """The run, its decoder as operations, and the labels it takes; ValueError where the page cannot compute it."""
    from vae_lightning import loading
    from vae_lightning.explorer import translate

    loaded = loading.load(Path(cfg.run), cfg.checkpoint, cfg.trust)
    try:
        ops, classes = translate.translate(loaded.module.decoder, loaded.module.latent_dim)
    except ValueError as error:
        raise ValueError(f"run={cfg.run}: {error}") from error
    return loaded, ops, classes


def explore(cfg: DictConfig, loaded: "Loaded", ops: list["Op"], classes: int) -> Path:
    """Encodes the test images, writes the page and returns its path."""
    from vae_lightning.explorer import encoded, page

    _, module, data, _ = loaded
    count = min(cfg.images, data.images_in("test"))
    with tqdm(total=count, unit="image", disable=not sys.stderr.isatty()) as bar:
        found = encoded.encode(module, data, count, bar.update)
    title, facts = about(cfg, loaded)
    content = {
        "title": title,
        "facts": facts,
        "likelihood": module.decoder.description,
        "names": names(loaded, int(found.labels.max()) + 1, classes),
        "classes": classes,
        "reference": reference(loaded, found),
        "decoder": page.decoder_content(ops),
        **page.encoded_content(found),
    }
    output = Path(cfg.output or Path(cfg.run, "pictures", "explore.html"))
    runs.replace(output, page.render(content, title))
    return output


def reference(loaded: "Loaded", found: "Encoded") -> str:
    """The decoded means of the first images by PyTorch."""
    import torch

    from vae_lightning.explorer.page import base64_of

    _, condition = loaded.data.inputs("test", slice(REFERENCES))
    with torch.no_grad():
        return base64_of(loaded.module.decoder(found.mean[:REFERENCES].unsqueeze(0), *condition).mean)


def about(cfg: DictConfig, loaded: "Loaded") -> tuple[str, list[tuple[str, str]]]:
    """The page's title, and the run's test metrics if they are of this checkpoint: (name, value with unit)."""
    from vae_lightning import verify

    facts = [("parameters", f"{sum(parameter.numel() for parameter in loaded.module.parameters()):,}")]
    metrics = runs.read_json(Path(cfg.run) / "metrics.json")
    if metrics.get("checkpoint") == cfg.checkpoint and "test/recon" in metrics:
        terms = {"\u2212ELBO": "test/neg_elbo", "recon": "test/recon", "KL": "test/kl"}
        facts = [(f"test {name}", f"{metrics[key]:.2f} nats") for name, key in terms.items()] + facts
    return verify.title(loaded), [*facts, ("checkpoint", cfg.checkpoint)]


def names(loaded: "Loaded", least: int, classes: int) -> list[str]:
    """What each label is called: the data set's own names where it has them ('0 - zero' is 0), else its number."""
    from torch.utils.data import Dataset

    from vae_lightning.build import find_class

    dataset = find_class(loaded.cfg.data.dataset["_target_"], Dataset, loaded.cfg.trust)
    own = [str(name).split(" - ")[0] for name in getattr(dataset, "classes", [])]
    return own if len(own) >= max(least, classes) else [str(label) for label in range(max(least, classes))]


if __name__ == "__main__":
    main()
