"""Tables of the jobs of a sweep."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from vae_lightning.checks.errors import ConfigError, escaped
from vae_lightning.cli import tables
from vae_lightning.runs.stored import OVERRIDES
from vae_lightning.runs.untrusted import read_overrides
from vae_lightning.storage.files import read_json

Row = dict[str, object]
SCORE_COLUMNS = (
    "val/recon",
    "val/kl",
    "val/neg_elbo",
    "test/recon",
    "test/kl",
    "test/neg_elbo",
    "latents/active_units",
)
OTHER_COLUMNS = ("state", *SCORE_COLUMNS, "folder", "reason")  # columns that are not overrides


def collect(sweep: Path) -> list[Row]:
    """One row per job of a sweep, read from its folder: overrides, state, metrics."""
    rows = []
    for status in sorted(sweep.glob("*/status.json"), key=lambda path: path.stat().st_mtime):
        try:
            rows.append(row_of(status.parent))
        except ConfigError as error:
            folder = status.parent.name
            rows.append({"state": "damaged", "folder": folder, "reason": escaped(str(error))})
    return rows


def row_of(job: Path) -> Row:
    """The row of a job; raises ConfigError if a file of it is damaged."""
    try:
        overrides = read_overrides((job / OVERRIDES).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{job / OVERRIDES}: {OVERRIDES.name} is damaged ({error})") from error
    words = [word for word in overrides if "=" in word and not word.startswith("hydra.")]
    metrics, state = read_json(job / "metrics.json"), read_json(job / "status.json")
    row = dict(word.split("=", 1) for word in words)
    row |= {"state": state.get("state", "unknown")}
    row |= {name: metrics.get(name, "") for name in SCORE_COLUMNS} | {"folder": job.name}
    return row | ({"reason": state["reason"]} if "reason" in state else {})


def table(rows: Sequence[Row], sweep: Path) -> str:
    """The rows as text, and below them the paths of the details."""
    names = [
        name
        for name in dict.fromkeys(key for row in rows for key in row)
        if name not in ("folder", "reason")
    ]
    more = [str(sweep / "sweep.csv"), f"tensorboard --logdir {shlex.quote(str(sweep))}"]
    return "\n".join(["", tables.columns(rows, names), "", *more])
