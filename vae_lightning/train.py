"""Trains a model: ``python -m vae_lightning.train key=value ...``.

Composes and checks the configuration, trains and tests the model, and prints the results.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from vae_lightning.checks.errors import ConfigError
from vae_lightning.cli import arguments
from vae_lightning.cli.command import exit_codes
from vae_lightning.cli.help import describe_groups, describe_options, help_page
from vae_lightning.config import options
from vae_lightning.config.compose import compose, default_choices, search_path
from vae_lightning.config.environment import is_started_process
from vae_lightning.runs.from_config import check_typed, expanded, named_run
from vae_lightning.runs.start import (
    check_no_sweep,
    check_resumes_alone,
    join,
    resume,
    resumed_run,
    start,
)
from vae_lightning.sweeps.plan import SWEEP_MODE
from vae_lightning.sweeps.start import list_jobs, start_sweep
from vae_lightning.training.signals import StopSignals

if TYPE_CHECKING:
    from vae_lightning.training.experiment import Result

# what --help lists
MOST_USED_OPTIONS = (
    "model.latent_dim",
    "model.hidden_dims",
    "model.conditional",
    "objective.beta",
    "optimizer.lr",
    "data.batch_size",
    "data.binarization",
    "data.root",
    "trainer.max_epochs",
    "trainer.precision",
    "trainer.compile",
    "trainer.threads",
    "seed",
)


def main() -> None:
    """Runs the command: training, a sweep, a resumed run, or a worker process of DDP."""
    with exit_codes():
        if is_started_process():
            join()
            return
        args = arguments.parse(sys.argv[1:], "config")
        check_resumes_alone(args.overrides)
        if not args.help and named_run(args.overrides):
            args.overrides = expanded(args.overrides, args.config_dir)
        if args.help:
            print(help_text())
        elif args.multirun and args.cfg:
            print(list_jobs(args.overrides, args.config_dir))
        elif arguments.asks_for_information(args):
            arguments.print_information("config", args)
        elif args.multirun or f"hydra.mode={SWEEP_MODE.name}" in args.overrides:
            sweep(args)
        else:
            with StopSignals() as stop:
                start_or_resume(args, stop)


def help_text() -> str:
    """The page of --help."""
    cfg = compose("config", [])
    described = options.described_options(cfg)
    most_used = {key: described[key] for key in MOST_USED_OPTIONS}
    return help_page(
        "config",
        {
            "groups": describe_groups(default_choices()),
            "options": describe_options(most_used, cfg),
        },
    )


def start_or_resume(args: argparse.Namespace, stop: StopSignals) -> None:
    """Continues the run that an override names, or starts a new one."""
    runs = [run for word in args.overrides if (run := resumed_run(word))]
    if runs:
        if args.config_dir is not None:
            raise ConfigError(
                f"--config-dir={args.config_dir}: must not be given with resume; the run folder"
                " holds the whole configuration"
            )
        others = [word for word in args.overrides if not resumed_run(word)]
        result = resume(Path(runs[-1]), others, stop)
    else:
        result = start_new(args, stop)
    if result is not None:
        print(result.table)


def start_new(args: argparse.Namespace, stop: StopSignals) -> "Result | None":
    """Starts a new run, or the sweep or resumed run that a file of the configuration asks for."""
    cfg = compose("config", [*search_path(args.config_dir), *args.overrides])
    check_typed(cfg, args.overrides)
    if cfg.resume is not None:  # the file of an experiment says so
        others = [word for word in args.overrides if not word.startswith("experiment=")]
        return resume(Path(cfg.resume), others, stop)
    if cfg.hydra.mode == SWEEP_MODE:  # the file of an experiment says so
        sweep(args)
    check_no_sweep(args.overrides)
    return start(cfg, args.overrides, stop)


def sweep(args: argparse.Namespace) -> NoReturn:
    """Runs a sweep; exits with code 1 if a job is not finished."""
    sys.exit(0 if start_sweep(args.overrides, args.config_dir) else 1)


if __name__ == "__main__":
    main()
