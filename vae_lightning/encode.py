"""Writes the codes of images: ``python -m vae_lightning.encode run=RUN``."""

from pathlib import Path

from omegaconf import DictConfig

from vae_lightning.cli.command import IMAGE_OPTIONS, command
from vae_lightning.cli.outputs import output_of, output_option
from vae_lightning.runs.stored import require_run
from vae_lightning.storage.files import write_csv

OPTIONS = IMAGE_OPTIONS | {"out": output_option("codes.npz", ".npz", ".csv")}


@command("encode", OPTIONS)
def main(cfg: DictConfig) -> None:
    """Writes mean and standard deviation of q(z|x) of each image, and prints the path."""
    require_run(Path(cfg.run), "run")  # before the heavy imports
    output = output_of(cfg, "codes.npz")
    from vae_lightning.plots.outputs import write_npz
    from vae_lightning.runs.load import load_run
    from vae_lightning.runs.selection import select_images

    run = load_run(cfg.run, cfg.checkpoint, cfg.trust, cfg.data.root)
    chosen = select_images(run, cfg)
    codes = run.encode(chosen.x, chosen.label)
    moments = {"mean": codes.mean.cpu().numpy(), "std": codes.std.cpu().numpy()}
    if output.endswith(".npz"):
        write_npz(Path(output), chosen.columns | moments)
    else:
        columns = chosen.columns | {
            f"{name}_{dimension}": values[:, dimension]
            for name, values in moments.items()
            for dimension in range(values.shape[1])
        }
        rows = zip(*columns.values(), strict=True)
        write_csv(Path(output), [dict(zip(columns, row, strict=True)) for row in rows])
    print(f"{output}  {chosen.description}")


if __name__ == "__main__":
    main()
