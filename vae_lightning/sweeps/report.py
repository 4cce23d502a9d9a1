"""Writes everything that compares the results of sweeps and runs."""

from collections.abc import Sequence
from pathlib import Path

from vae_lightning.sweeps.page import write_page
from vae_lightning.sweeps.plots import write_plots
from vae_lightning.sweeps.results import Result, settings, write_tables
from vae_lightning.sweeps.tables import write_papers


def write_report(results: Sequence[Result], folder: Path) -> list[Path]:
    """Writes page, tables and plots; returns the paths of all but the CSV tables."""
    write_tables(results, folder)
    groups = settings(results)
    if not groups:
        return []
    page = write_page(results, folder)
    return [page, *write_papers(groups, folder), *write_plots(groups, folder)]
