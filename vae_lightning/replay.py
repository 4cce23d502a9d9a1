"""Repeats a run and compares: ``python -m vae_lightning.replay run=RUN``.

Trains with the stored configuration in a new folder and says whether every number is the same.
"""

import sys
from pathlib import Path

from omegaconf import DictConfig

from vae_lightning.checks.errors import ConfigError, counted, escaped
from vae_lightning.checks.ranges import Option, Text
from vae_lightning.cli.command import OPTIONAL_FOLDER, RUN_OPTIONS, command, exit_codes
from vae_lightning.config.environment import forget_ranks, is_started_process
from vae_lightning.runs.start import join
from vae_lightning.runs.stored import read_stored
from vae_lightning.storage.run_folder import new_folder
from vae_lightning.training.signals import StopSignals

OPTIONS = {
    "run": Option("run folder; the run must be finished", Text("a path")),
    "out": Option("folder of the repetition; null: RUN-replay", OPTIONAL_FOLDER),
    "data.root": RUN_OPTIONS["data.root"],
    "trust": RUN_OPTIONS["trust"],
}


def main() -> None:
    """Runs the command, or a process that Lightning starts for the repetition."""
    if is_started_process():
        with exit_codes():
            join()
    else:
        replay()


@command("replay", OPTIONS)
def replay(cfg: DictConfig) -> bool:
    """Repeats the run, prints what differs, and returns whether nothing does."""
    stored = read_stored(Path(cfg.run), "run")
    run = Path(cfg.run).resolve()
    if stored.state != "finished":
        raise ConfigError(f"run={cfg.run}: must be finished, is {stored.state}")
    stored.cfg.trust = cfg.trust
    if cfg.data.root is not None:
        stored.cfg.data.root = cfg.data.root
    forget_ranks()
    from vae_lightning.compile import accelerate
    from vae_lightning.runs.differences import differences, environment_differences
    from vae_lightning.training.experiment import run_experiment

    path = Path(cfg.out or f"{run}-replay")
    folder = new_folder(path, exclusive=cfg.out is None, key="out")
    with StopSignals() as stop:
        result = run_experiment(stored.cfg, folder, accelerate, stop, stored.overrides)
    assert result is not None  # this is the first process
    found = differences(run, result.run)
    for line in [*environment_differences(run, result.run), *found]:
        print(escaped(line))
    verdict = f"differs in {counted(len(found), 'number')}" if found else "every number is the same"
    print(f"{result.run}: {verdict}")
    return not found


if __name__ == "__main__":
    sys.exit(main())
