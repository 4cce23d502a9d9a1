"""Runs a sweep. Hydra's sweeper chooses the jobs; each runs in its own process and folder."""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from vae_lightning.checks.errors import ConfigError
from vae_lightning.cli.arguments import hydra_main
from vae_lightning.cli.command import REFUSAL_VARIABLE
from vae_lightning.config import options
from vae_lightning.config.compose import COMPOSITION_ERRORS, compose, search_path
from vae_lightning.storage.files import number, read_json, write_csv, write_text
from vae_lightning.storage.run_folder import new_folder, read_status, write_status
from vae_lightning.sweeps.names import slug
from vae_lightning.sweeps.tables import collect, table

SCORES = ("val/neg_elbo", "train/neg_elbo")  # the sweeper minimizes the first one that a run has


def run_sweep(args: argparse.Namespace, argv: Sequence[str]) -> bool:
    """Checks all jobs, runs them one after another, prints the table; False if a job failed."""
    first = check(args.overrides, search_path(args.config_dir))
    chosen = any(override.startswith("hydra.sweep.dir=") for override in args.overrides)
    with new_folder(Path(first.hydra.sweep.dir), not chosen, "hydra.sweep.dir") as folder:
        # Hydra would evaluate ${now:} again, but all jobs must be in one folder
        words = [*argv, f"hydra.sweep.dir='{folder}'"]
    extra = ["--config-dir", str(Path(args.config_dir).resolve())] if args.config_dir else []
    try:
        hydra_main(
            "config", words, lambda _: run_job(HydraConfig.get().overrides.task, extra, folder)
        )
    finally:
        rows = collect(folder)
        if rows:
            write_csv(folder / "sweep.csv", rows)
            print(table(rows, folder))
    return all(row["state"] == "finished" for row in rows)


def check(overrides: Sequence[str], paths: Sequence[str]) -> DictConfig:
    """Composes and validates every combination before the first job starts; returns one of them.

    Only Hydra's basic sweeper knows its combinations in advance. With another sweeper, every job is
    validated when it starts.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        (batch,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    except COMPOSITION_ERRORS as error:
        raise ConfigError(str(error)) from error
    if any(override.get_key_element() == "resume" for override in parsed):
        raise ConfigError(
            "resume: must not be given with -m; resume each job separately with resume=JOB_FOLDER"
        )
    cfg: DictConfig | None = None
    for combination in batch:
        cfg = compose("config", [*paths, *combination])
        if "basic_sweeper" not in cfg.hydra.sweeper._target_:
            return cfg
        options.check(cfg)
    if cfg is None:
        raise ConfigError(f"{' '.join(overrides)}: must give at least one job")
    return cfg


def run_job(overrides: Sequence[str], extra: Sequence[str], sweep: Path) -> float:
    """Trains one job in a new process and returns its score, or NaN if it failed.

    The process inherits standard error, so that an error is visible immediately.
    """
    folder = sweep / slug(overrides)
    print(f"\n{folder.name}", flush=True)
    command = [
        sys.executable,
        "-m",
        "vae_lightning.train",
        *extra,
        *overrides,
        f"hydra.run.dir='{folder}'",
    ]
    with tempfile.NamedTemporaryFile("r") as refusal:
        variables = os.environ | {REFUSAL_VARIABLE: refusal.name}
        # In its own session, the job receives Ctrl-C once, from the loop below.
        process = subprocess.Popen(command, start_new_session=True, env=variables)
        while True:
            try:
                code = process.wait()
                break
            except KeyboardInterrupt:
                process.send_signal(signal.SIGINT)
        reason = refusal.read() or f"the process ended with exit code {code}"
    if code == 130:
        raise SystemExit(130)
    if read_status(folder).get("state", "running") == "running":
        record_failure(folder, overrides, reason)
    metrics = read_json(folder / "metrics.json")
    return next((number(metrics, name) for name in SCORES if name in metrics), float("nan"))


def record_failure(folder: Path, overrides: Sequence[str], reason: str) -> None:
    """Records the failure of a job whose process ended before it could record it."""
    write_status(folder, "failed", reason)
    write_text(
        folder / ".hydra" / "overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(list(overrides)))
    )
