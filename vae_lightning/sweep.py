"""Continues or shows a sweep: ``python -m vae_lightning.sweep resume=DIR`` or ``status=DIR``."""

from pathlib import Path

from omegaconf import DictConfig

from vae_lightning.checks.errors import ConfigError
from vae_lightning.checks.ranges import AnyOf, Boolean, Choice, Option
from vae_lightning.cli.command import OPTIONAL_FOLDER, command
from vae_lightning.config.general_options import SEARCH_OPTIONS, SWEEP_OPTIONS
from vae_lightning.config.launcher_options import merged_options
from vae_lightning.sweeps.plan import read_plan
from vae_lightning.sweeps.results import collect
from vae_lightning.sweeps.start import resume_sweep
from vae_lightning.sweeps.tables import terminal_table
from vae_lightning.sweeps.work import LOGS

OPTIONS = {
    "resume": Option("sweep folder; the sweep continues there", OPTIONAL_FOLDER),
    "status": Option("sweep folder; the sweep may still be running", OPTIONAL_FOLDER),
    "trust": Option("with resume: allow your own classes and interpolations", Boolean()),
    "search.trials": Option(
        "with resume: points that a search draws in all; null: as before",
        AnyOf((SEARCH_OPTIONS["search.trials"].range, Choice((None,)))),
    ),
    "search.storage": Option(
        "with resume: the database of the search, if it was started with one",
        SEARCH_OPTIONS["search.storage"].range,
    ),
    **merged_options(),
    "sweep.on_error": SWEEP_OPTIONS["sweep.on_error"],
}


@command("sweep", OPTIONS)
def main(cfg: DictConfig) -> bool | None:
    """Continues the sweep and returns whether all jobs are finished, or prints its table."""
    if (cfg.resume is None) == (cfg.status is None):
        raise ConfigError("sweep: must be given either resume=DIR or status=DIR")
    if cfg.resume is not None:
        return resume_sweep(cfg)
    folder = Path(cfg.status)
    read_plan(folder, "status")
    results = collect([folder])
    print(terminal_table(results))
    for each in results:
        if each.state == "failed":
            print(f"{each.folder.name}: {each.reason}; see {folder / LOGS / each.folder.name}.log")
    return None


if __name__ == "__main__":
    main()
