"""Sweeps: Hydra's sweeper and launcher choose the jobs; each runs as a process of its own, in a folder named by it."""

import argparse
import hashlib
import os
import re
import shlex
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

from vae_lightning import cli, config, runs

SCORES = ("val/neg_elbo", "train/neg_elbo")  # what a sweeper minimises: the first that a run has
COLUMNS = (
    *("val/recon", "val/kl", "val/neg_elbo", "test/recon", "test/kl", "test/neg_elbo"),
    "latents/active_units",
)
FIXED = ("state", *COLUMNS, "folder", "reason")  # columns that are no override


def run(args: argparse.Namespace) -> None:
    """Checks every combination, runs them one after the other, shows the table; exits 1 if a job failed."""
    first = check(args.overrides, cli.search_path(args))
    chosen = any(override.startswith("hydra.sweep.dir=") for override in args.overrides)
    with cli.usage(ValueError):
        folder = runs.create(Path(first.hydra.sweep.dir), exclusive=not chosen, key="hydra.sweep.dir")
    # Hydra evaluates ${now:} again: all of a sweep must lie in one folder
    sys.argv += [f"hydra.sweep.dir='{folder}'"]
    extra = ["--config-dir", str(Path(args.config_dir).resolve())] if args.config_dir else []
    try:
        cli.hydra_main("config", lambda _: job(HydraConfig.get().overrides.task, extra, folder))
    finally:
        rows = collect(folder)
        if rows:
            runs.write_csv(folder / "sweep.csv", rows)
            print(table(rows, folder))
    if any(row["state"] != "finished" for row in rows):
        sys.exit(1)


def check(overrides: Sequence[str], search_path: Sequence[str]) -> DictConfig:
    """Composes and validates every combination, so that a mistake is found before the first job; returns one of them.

    Only Hydra's basic sweeper says its combinations beforehand: under another one, jobs are checked when they start.
    """
    with cli.usage(ValueError):
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        if any(override.get_key_element() == "resume" for override in parsed):
            raise ValueError("resume: must not be given with -m; resume a job by its own folder")
        (batch,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
        for combination in batch:
            cfg = cli.compose("config", [*search_path, *combination])
            if "basic_sweeper" not in cfg.hydra.sweeper._target_:
                return cfg
            config.check_keys(cfg)
            config.validate(cfg)
    return cfg


def slug(overrides: Sequence[str]) -> str:
    """A folder name for a job: its overrides made short and safe, and a hash of the exact list."""
    words = [re.sub(r"[^A-Za-z0-9.=_-]+", "_", re.sub(r"^[^=]*\.", "", override)) for override in overrides]
    digest = hashlib.blake2b("\n".join(sorted(overrides)).encode(), digest_size=4).hexdigest()
    return f"{'-'.join(words)[:80].strip('-_') or 'defaults'}-{digest}"


def job(overrides: Sequence[str], extra: Sequence[str], sweep: Path) -> float:
    """One job: trains in a fresh process and returns its score, NaN if it failed.

    The process inherits standard error, so that an error is seen when it happens.
    """
    folder = sweep / slug(overrides)
    print(f"\n{folder.name}", flush=True)
    command = [sys.executable, "-m", "vae_lightning.train", *extra, *overrides, f"hydra.run.dir='{folder}'"]
    with tempfile.NamedTemporaryFile("r") as refusal:
        environment = os.environ | {cli.REFUSAL_VARIABLE: refusal.name}
        process = subprocess.Popen(command, start_new_session=True, env=environment)  # it gets a Ctrl-C once: from here
        while True:
            try:
                code = process.wait()
                break
            except KeyboardInterrupt:
                process.send_signal(signal.SIGINT)
        reason = refusal.read() or f"the process ended with exit code {code}"
    if code == 130:
        raise SystemExit(130)
    if runs.read_json(folder / "status.json").get("state", "running") == "running":
        record_failure(folder, overrides, reason)
    metrics = runs.read_json(folder / "metrics.json")
    return next((metrics[name] for name in SCORES if name in metrics), float("nan"))


def record_failure(folder: Path, overrides: Sequence[str], reason: str) -> None:
    """Writes what the process of a job could not: that it ended without a result."""
    runs.set_status(folder, "failed", reason)
    runs.replace(folder / ".hydra" / "overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(list(overrides))))


def collect(sweep: Path) -> list[dict[str, object]]:
    """A row for each job of a sweep, from its folder alone: overrides, state, terms."""
    rows = []
    for status in sorted(sweep.glob("*/status.json"), key=lambda path: path.stat().st_mtime):
        overrides = OmegaConf.load(status.parent / ".hydra" / "overrides.yaml")
        metrics = runs.read_json(status.parent / "metrics.json")
        values = dict(override.split("=", 1) for override in overrides if not override.startswith("hydra."))
        state = runs.read_json(status)
        scores = {name: metrics.get(name, "") for name in COLUMNS}
        reason = {"reason": state["reason"]} if "reason" in state else {}
        rows.append(values | {"state": state["state"]} | scores | {"folder": status.parent.name} | reason)
    return rows


def table(rows: Sequence[dict[str, object]], sweep: Path) -> str:
    """The rows for a terminal."""
    names = [name for name in dict.fromkeys(key for row in rows for key in row) if name not in ("folder", "reason")]
    values = [[row.get(name, "") for name in names] for row in rows]
    cells = [[f"{value:.3f}" if isinstance(value, float) else str(value) for value in line] for line in values]
    sizes = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    lines = ["  ".join(map(str.rjust, line, sizes)) for line in [names, *cells]]
    return "\n".join(["", *lines, "", f"{sweep / 'sweep.csv'}", f"tensorboard --logdir {shlex.quote(str(sweep))}"])
