"""Trains a model: ``python -m vae_lightning.train key=value ...``.

Composes and checks the configuration, trains and tests the model, and prints the results.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from omegaconf import DictConfig

from vae_lightning.checks.errors import ConfigError, Interrupted, counted
from vae_lightning.cli import arguments
from vae_lightning.cli.command import exit_codes
from vae_lightning.cli.help import describe_groups, describe_options, help_page
from vae_lightning.cli.worker import join
from vae_lightning.config import options
from vae_lightning.config.compose import compose, default_choices, search_path
from vae_lightning.config.environment import (
    forget_ranks,
    is_requeued,
    is_started_process,
    rank,
)
from vae_lightning.runs.stored import CONFIG, read_stored
from vae_lightning.storage import run_folder
from vae_lightning.sweeps.driver import run_sweep
from vae_lightning.training.signals import StopSignals

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
        argv = sys.argv[1:]
        args = arguments.parse(argv)
        if args.help:
            print(help_text())
        elif arguments.asks_for_information(args):
            arguments.hydra_main("config", argv, lambda _: None)
        elif args.multirun:
            sys.exit(0 if run_sweep(args, argv) else 1)
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
        resume(Path(runs[-1]), [word for word in args.overrides if not resumed_run(word)], stop)
    else:
        start(args, stop)


def resumed_run(override: str) -> str | None:
    """Returns the run that an override continues, if it does: resume=RUN, also with + or ++."""
    key, _, value = override.partition("=")
    return value if key.lstrip("+") == "resume" and value not in ("", "null") else None


def start(args: argparse.Namespace, stop: StopSignals) -> None:
    """Starts a new run; checks the configuration before it creates the run folder."""
    cfg = compose("config", [*search_path(args.config_dir), *args.overrides])
    if cfg.resume is not None:  # the file of an experiment says so
        others = [word for word in args.overrides if not word.startswith("experiment=")]
        resume(Path(cfg.resume), others, stop)
        return
    options.check(cfg)
    is_folder_given = any(word.startswith("hydra.run.dir=") for word in args.overrides)
    if cfg.accelerator.num_nodes > 1:
        check_nodes(cfg, is_folder_given)
    options.settle(cfg)
    cfg.trust = True  # the configuration comes from the user, so it may name the user's classes
    path = Path(cfg.hydra.run.dir)
    if is_folder_given and is_requeued() and (path / CONFIG).is_file():
        resume(path, args.overrides, stop)
        return
    # only rank 0 creates the folder
    folder = (
        nullcontext(path.resolve())
        if cfg.accelerator.num_nodes > 1 and rank()
        else run_folder.new_folder(path, exclusive=not is_folder_given)
    )
    run(cfg, folder, stop, args.overrides)


def check_nodes(cfg: DictConfig, is_folder_given: bool) -> None:
    """Raises ConfigError unless all machines of a run use the same folder and seed."""
    if "RANK" not in os.environ and "SLURM_PROCID" not in os.environ:
        nodes = cfg.accelerator.num_nodes
        raise ConfigError(f"accelerator.num_nodes={nodes}: requires a start by torchrun or srun")
    if not is_folder_given or cfg.seed is None:
        raise ConfigError(
            "accelerator=multi_node: requires hydra.run.dir and seed, "
            "so that all nodes use the same folder and seed"
        )


def resume(folder: Path, overrides: Sequence[str], stop: StopSignals) -> None:
    """Continues a run from last.ckpt in its folder.

    Of its options, only data.root and trainer.max_epochs may change. At or below the number of
    finished epochs, it ends the run with its test. ``trust`` is false unless the overrides set it.
    """
    stored = read_stored(folder, "resume")
    cfg = stored.cfg
    folder = folder.resolve()
    epochs = cfg.trainer.max_epochs
    for override in overrides:
        key, _, value = override.partition("=")
        if key == "trust":
            cfg.trust = {"true": True, "false": False}.get(value, value)
        elif key == "trainer.max_epochs" and value.isdigit():
            cfg.trainer.max_epochs = int(value)
        elif key == "data.root" and value:
            cfg.data.root = value
        elif override not in stored.overrides:
            raise ConfigError(
                f"{override}: must not change on resume; only data.root may, and"
                f" trainer.max_epochs, from {epochs}"
            )
    options.check_complete(cfg)
    options.check_values(cfg)
    wanted = cfg.trainer.max_epochs
    if stored.state == "finished" and (wanted == epochs or wanted <= stored.epochs):
        advice = f"resume={folder} trainer.max_epochs={2 * epochs}"
        done = counted(stored.epochs, "epoch")
        print(f"{folder} is finished: {done}. To train longer: {advice}")
        return
    run(cfg, nullcontext(folder), stop, None)


def run(
    cfg: DictConfig,
    folder: AbstractContextManager[Path],
    stop: StopSignals,
    overrides: Sequence[str] | None,
) -> None:
    """Runs the experiment and prints its results or, if interrupted, the command that resumes it.

    ``overrides`` is None on resume.
    """
    if cfg.accelerator.num_nodes == 1:
        forget_ranks()
    from vae_lightning.compile import accelerate
    from vae_lightning.training.experiment import run_experiment

    try:
        result = run_experiment(cfg, folder, accelerate, stop, overrides, resumes=overrides is None)
    except Interrupted as interruption:
        if interruption.run is not None:
            command = f"python -m vae_lightning.train resume={shlex.quote(str(interruption.run))}"
            print(f"interrupted. To continue: {command}", file=sys.stderr)
        raise
    if result is not None:
        print(result.table)


if __name__ == "__main__":
    main()
