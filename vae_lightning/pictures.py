"""Pictures: ``python -m vae_lightning.pictures run=RUN kind=samples``. Draws what the model of a finished run does."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from vae_lightning import cli, config, runs

if TYPE_CHECKING:
    from PIL import Image

    from vae_lightning.loading import Loaded
    from vae_lightning.views import Viewer

KINDS = ("samples", "reconstructions", "traversals", "interpolations", "manifold", "latents")
COUNTS = {"samples": 100, "reconstructions": 50, "interpolations": 8, "latents": 2000}
PROJECTIONS = ("pca", "tsne")
FRAMES = 24  # of an animated interpolation from one image to the next


def main() -> None:
    """The command line."""
    with cli.exit_codes():
        cfg = cli.command("pictures", sys.argv[1:])
        if cfg is None:
            return
        with cli.usage(ValueError):
            check(cfg)
            runs.require(Path(cfg.run), "run")  # before anything heavy is imported
            from vae_lightning import loading

            loaded = loading.load(Path(cfg.run), cfg.checkpoint, cfg.trust)
            check_model(cfg, loaded)
        for path in draw(cfg, loaded):
            print(path)


def check(cfg: DictConfig) -> None:
    """Raises ValueError for what can be seen to be wrong without the run."""
    if cfg.kind not in (*KINDS, "all"):
        raise ValueError(
            f"kind={cfg.kind}: must be one of {', '.join(KINDS)}, all{config.nearest(str(cfg.kind), KINDS)}"
        )
    if cfg.count is not None and not config.whole(cfg.count, 1):
        raise ValueError(f"count={config.show(cfg.count)}: must be an integer >= 1")
    if not config.whole(cfg.seed, 0, 2**32 - 1):
        raise ValueError(f"seed={config.show(cfg.seed)}: must be an integer from 0 to 4294967295")
    if cfg.projection not in PROJECTIONS:
        raise ValueError(f"projection={cfg.projection}: must be one of {', '.join(PROJECTIONS)}")


def check_model(cfg: DictConfig, loaded: "Loaded") -> None:
    """Raises ValueError for what this model does not have."""
    classes, latent_dim = loaded.module.classes, loaded.module.latent_dim
    if cfg.label is not None and not classes:
        raise ValueError(f"label={cfg.label}: must be with a model that was trained with model.conditional=true")
    if cfg.label is not None and not config.whole(cfg.label, 0, classes - 1):
        raise ValueError(f"label={cfg.label}: must be an integer from 0 to {classes - 1}")
    if cfg.kind == "manifold" and latent_dim != 2:
        raise ValueError(f"kind=manifold: must be with model.latent_dim=2, and this run has {latent_dim}")


def draw(cfg: DictConfig, loaded: "Loaded") -> list[Path]:
    """Draws and saves; the paths of the pictures."""
    import torch

    from vae_lightning.gallery import describe
    from vae_lightning.views import Viewer

    _, module, data, _ = loaded
    folder = Path(cfg.output) if cfg.output else Path(cfg.run) / "pictures"
    metrics = runs.read_json(Path(cfg.run) / "metrics.json")
    about = describe(data.name, module, metrics, metrics.get("epoch", "unfinished"))
    shown, _ = data.inputs("test", slice(max(cfg.count or 0, COUNTS["latents"])))
    viewer = Viewer(module, shown, data.labels["test"][: len(shown)], about, cfg.seed, cfg.label)
    kinds = (
        [kind for kind in KINDS if kind != "manifold" or module.latent_dim == 2] if cfg.kind == "all" else [cfg.kind]
    )
    paths = []
    with torch.no_grad():
        for kind in kinds:
            paths.append(folder / f"{kind}.png")
            runs.save_picture(paths[-1], view(viewer, kind, cfg.count or COUNTS.get(kind, 0), cfg.projection))
            if kind == "interpolations":
                paths.append(folder / "interpolations.gif")
                animate(paths[-1], viewer, cfg.count or COUNTS[kind])
    return paths


def view(viewer: "Viewer", kind: str, count: int, projection: str) -> "Image.Image":
    """One picture."""
    views: dict[str, Callable[[], Image.Image]] = {
        "samples": lambda: viewer.samples(count),
        "reconstructions": lambda: viewer.reconstructions(count),
        "traversals": viewer.traversals,
        "interpolations": lambda: viewer.interpolations(count),
        "manifold": viewer.manifold,
        "latents": lambda: viewer.latents(projection, count),
    }
    return views[kind]()


def animate(path: Path, viewer: "Viewer", count: int) -> None:
    """All interpolations beside each other as an animated GIF that goes round and round."""
    from vae_lightning import drawing

    rows = viewer.between(count, FRAMES)
    sheets = [drawing.tile(rows[:, frame][None], 3) for frame in range(FRAMES)]
    sheets[0].save(path, save_all=True, append_images=sheets[1:] + sheets[-2:0:-1], duration=60, loop=0)


if __name__ == "__main__":
    main()
