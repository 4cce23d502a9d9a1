"""Writes images beside their reconstructions: ``python -m vae_lightning.reconstruct run=RUN``."""

from pathlib import Path

from omegaconf import DictConfig

from vae_lightning.cli.command import IMAGE_OPTIONS, command
from vae_lightning.cli.outputs import FOLDER, output_of, output_option
from vae_lightning.runs.stored import require_run

OPTIONS = IMAGE_OPTIONS | {
    "output": output_option("reconstructions.png", ".png", ".npz", FOLDER),
}


@command("reconstruct", OPTIONS)
def main(cfg: DictConfig) -> None:
    """Writes each image and E[x|z] at z = E[z|x], and prints the path."""
    require_run(Path(cfg.run), "run")  # before the heavy imports
    output = output_of(cfg, "reconstructions.png")
    import torch

    from vae_lightning.plots.outputs import pairs_grid, write_images
    from vae_lightning.runs.load import load_run
    from vae_lightning.runs.selection import select_images

    run = load_run(cfg.run, cfg.checkpoint, cfg.trust, cfg.data.root)
    chosen = select_images(run, cfg)
    x = chosen.x.x.cpu()
    decoded = run.reconstruct(x, chosen.label).cpu()
    files = chosen.columns.get("file", [""] * len(x))
    names = [f"{number:05d}_{Path(file).stem}".rstrip("_") for number, file in enumerate(files)]
    arrays = chosen.columns | {"images": x.numpy(), "reconstructions": decoded.numpy()}
    subtitle = f"{run.description}; {chosen.description}"
    pairs = torch.cat([x, decoded], dim=-1)
    write_images(output, pairs, names, lambda: pairs_grid(x, decoded, subtitle), arrays)
    print(f"{output}  {chosen.description}")


if __name__ == "__main__":
    main()
