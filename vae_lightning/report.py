"""Compares sweeps and runs: ``python -m vae_lightning.report DIR [DIR ...]``.

Writes a page, tables and plots of all of them together.
"""

import sys
from pathlib import Path

from omegaconf import DictConfig

from vae_lightning.checks.ranges import Option
from vae_lightning.cli.command import OPTIONAL_FOLDER, command
from vae_lightning.sweeps.defaults import with_defaults
from vae_lightning.sweeps.plan import SWEEP
from vae_lightning.sweeps.results import collect
from vae_lightning.sweeps.tables import terminal_table

OPTIONS = {
    "out": Option(
        "folder of the report; null: that of the sweep if there is one only, else outputs/report",
        OPTIONAL_FOLDER,
    ),
}


@command("report", OPTIONS, folders=True)
def main(cfg: DictConfig) -> None:
    """Writes the report, prints the table and the paths of the other files."""
    folders = [Path(folder) for folder in cfg.folders]
    results = with_defaults(collect(folders))
    is_sweep = len(folders) == 1 and (folders[0] / SWEEP).is_file()
    place = Path(cfg.out or (folders[0] if is_sweep else "outputs/report"))
    from vae_lightning.sweeps.report import write_report  # imports matplotlib

    paths = write_report(results, place)
    print(terminal_table(results), "", *paths, sep="\n")


if __name__ == "__main__":
    sys.exit(main())
