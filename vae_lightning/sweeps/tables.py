"""Tables of the jobs of a sweep."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from vae_lightning.cli import tables
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
        overrides = OmegaConf.load(status.parent / ".hydra" / "overrides.yaml")
        metrics = read_json(status.parent / "metrics.json")
        words = [str(override) for override in overrides]
        values = dict(word.split("=", 1) for word in words if not word.startswith("hydra."))
        state = read_json(status)
        scores = {name: metrics.get(name, "") for name in SCORE_COLUMNS}
        reason = {"reason": state["reason"]} if "reason" in state else {}
        rows.append(
            values | {"state": state["state"]} | scores | {"folder": status.parent.name} | reason
        )
    return rows


def table(rows: Sequence[Row], sweep: Path) -> str:
    """The rows as text, and below them the paths of the details."""
    names = [
        name
        for name in dict.fromkeys(key for row in rows for key in row)
        if name not in ("folder", "reason")
    ]
    more = [str(sweep / "sweep.csv"), f"tensorboard --logdir {shlex.quote(str(sweep))}"]
    return "\n".join(["", tables.columns(rows, names), "", *more])
