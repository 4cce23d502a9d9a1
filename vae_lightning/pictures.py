"""Draws pictures of a trained model: ``python -m vae_lightning.pictures run=RUN kind=samples``."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from vae_lightning.checks.errors import ConfigError
from vae_lightning.checks.ranges import SEEDS, AnyOf, Choice, Integer, Option
from vae_lightning.cli.command import LABEL, OPTIONAL_FOLDER, RUN_OPTIONS, command
from vae_lightning.runs.stored import require_run
from vae_lightning.storage.files import atomic_write, read_json

if TYPE_CHECKING:
    from vae_lightning.distributions import Mixture
    from vae_lightning.plots.picture import Picture
    from vae_lightning.plots.views import Viewer
    from vae_lightning.runs.run import Run

KINDS = ("samples", "reconstructions", "traversals", "interpolations", "manifold", "latents")
ENCODED_IMAGES = 2000  # test images, unless count is larger; see shown_count
RECONSTRUCTIONS = 50  # at most, unless count is given
FORMATS = ("png", "pdf", "svg")
PROJECTIONS = ("pca", "tsne")
ANIMATED_SIZE = 84  # pixels of the longer side of an animated image, about
FRAMES = 24  # number of frames of an animated interpolation, from one image to the other


OPTIONS = RUN_OPTIONS | {
    "kind": Option("what is drawn, see above", Choice((*KINDS, "all"))),
    "count": Option(
        "number of images or points; null: as above", AnyOf((Integer(1), Choice((None,))))
    ),
    "label": Option("class that a conditional model draws; null: all classes in turn", LABEL),
    "seed": Option("seed of the samples", SEEDS),
    "prior": Option(
        "what samples are drawn from: the prior, or a Gaussian mixture fitted to the codes of the"
        " training images",
        Choice(("model", "gmm")),
    ),
    "projection": Option("projection of the latents", Choice(PROJECTIONS)),
    "format": Option("png, or vector graphics for a paper", Choice(FORMATS)),
    "out": Option("output folder; null: RUN/pictures", OPTIONAL_FOLDER),
}


@command("pictures", OPTIONS)
def main(cfg: DictConfig) -> None:
    """Draws the pictures and prints their paths."""
    require_run(Path(cfg.run), "run")  # before the heavy imports
    from vae_lightning.runs.load import load_run

    run = load_run(cfg.run, cfg.checkpoint, cfg.trust, cfg.data.root)
    check_model(cfg, run)
    for path in draw(cfg, run):
        print(path)


def check_model(cfg: DictConfig, run: "Run") -> None:
    """Raises ConfigError for options that this model does not support."""
    from vae_lightning.runs.selection import check_label

    check_label(run, cfg.label)


def draw(cfg: DictConfig, run: "Run") -> list[Path]:
    """Draws and saves the pictures; returns their paths."""
    import torch

    from vae_lightning.data.shown import shown_count, shown_images
    from vae_lightning.plots import canvas
    from vae_lightning.plots.gallery import progress
    from vae_lightning.plots.views import Viewer

    module, data = run.module, run.data
    folder = Path(cfg.out) if cfg.out else Path(cfg.run) / "pictures"
    metrics = read_json(Path(cfg.run) / "metrics.json")
    numbers = {name: value for name, value in metrics.items() if isinstance(value, float)}
    title = f"{run.description}, {progress(numbers, metrics.get('epoch', 'unfinished'))}"
    encoded = max(cfg.count or 0, shown_count(ENCODED_IMAGES, data.pixels))
    images, _, labels = shown_images(data, encoded)
    viewer = Viewer(module, images, labels, title, cfg.seed, cfg.label, data.class_names)
    paths = []
    with torch.no_grad():
        for kind in kinds(cfg, module.latent_dim, len(images)):
            paths.append(folder / f"{kind}.{cfg.format}")
            mixture = run.mixture if cfg.prior == "gmm" and kind == "samples" else None
            picture = view(viewer, kind, cfg.count, cfg.projection, mixture)
            if cfg.format == "png":
                canvas.save_png(paths[-1], canvas.draw(picture))
            else:
                from vae_lightning.plots.figure import save_figure  # imports matplotlib

                save_figure(paths[-1], picture)
            if kind == "interpolations":
                paths.append(folder / "interpolations.gif")
                animate(paths[-1], viewer, cfg.count)
    return paths


def kinds(cfg: DictConfig, latent_dim: int, images: int) -> list[str]:
    """The kinds to draw; ``all`` leaves out what has no meaning for this model or these images.

    Raises ConfigError for a single kind that has none.
    """
    reasons = {}
    if latent_dim != 2:
        reasons["manifold"] = f"model.latent_dim=2, but this run has {latent_dim}"
    if images < 2:
        reasons |= dict.fromkeys(("interpolations", "latents"), "two test images or more")
    if cfg.kind in reasons:
        raise ConfigError(f"kind={cfg.kind}: requires {reasons[cfg.kind]}")
    return [kind for kind in KINDS if kind not in reasons] if cfg.kind == "all" else [cfg.kind]


def view(
    viewer: "Viewer",
    kind: str,
    count: int | None,
    projection: str,
    mixture: "Mixture | None" = None,
) -> "Picture":
    """One picture; ``projection``, ``count`` and ``mixture`` apply only to some kinds."""
    views: dict[str, Callable[[], Picture]] = {
        "samples": lambda: viewer.samples(count, mixture),
        "reconstructions": lambda: viewer.reconstructions(count, RECONSTRUCTIONS),
        "traversals": viewer.traversals,
        "interpolations": lambda: viewer.interpolations(count),
        "manifold": viewer.manifold,
        "latents": lambda: viewer.latents(projection, count),
    }
    return views[kind]()


def animate(path: Path, viewer: "Viewer", count: int | None) -> None:
    """Writes all interpolations, side by side, as an animated GIF that loops back and forth."""
    from vae_lightning.plots import canvas

    rows = viewer.decoded_interpolations(count, FRAMES)
    sheets = [canvas.tile(rows[:, frame][None], ANIMATED_SIZE) for frame in range(FRAMES)]
    frames = sheets[1:] + sheets[-2:0:-1]
    with atomic_write(path) as temporary:
        sheets[0].save(temporary, "GIF", save_all=True, append_images=frames, duration=60, loop=0)


if __name__ == "__main__":
    main()
