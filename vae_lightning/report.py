"""Reports a sweep: ``python -m vae_lightning.report sweep=SWEEP``.

Writes a table of its jobs and plots that compare them.
"""

from pathlib import Path

from omegaconf import DictConfig

from vae_lightning.checks.errors import ConfigError
from vae_lightning.checks.ranges import Option, Text
from vae_lightning.cli.command import command
from vae_lightning.storage.files import write_csv
from vae_lightning.sweeps.tables import collect, table

OPTIONS = {"sweep": Option("sweep folder; the sweep may still be running", Text("a path"))}


@command("report", OPTIONS)
def main(cfg: DictConfig) -> None:
    """Writes SWEEP/sweep.csv and the plots, prints the table and the paths of the plots."""
    folder = Path(cfg.sweep)
    rows = collect(folder)
    if not rows:
        raise ConfigError(f"sweep={folder}: must be a sweep folder (no jobs there)")
    write_csv(folder / "sweep.csv", rows)
    print(table(rows, folder))
    from vae_lightning.sweeps.plots import plots  # imports matplotlib

    for path in plots(rows, folder):
        print(path)


if __name__ == "__main__":
    main()
