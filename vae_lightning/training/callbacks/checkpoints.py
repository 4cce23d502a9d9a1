"""Keeps the checkpoints of more epochs than the best and the last one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from lightning.pytorch import Callback

from vae_lightning.checks.ranges import AnyOf, Choice, Integer, Option
from vae_lightning.storage.files import link


class Checkpoints(Callback):
    """Keeps checkpoints/epoch-N.ckpt of every n-th epoch, or of the k best of these epochs.

    The recorder, which writes last.ckpt, calls ``keep``; the files are links to what it wrote.

    Args:
        every_n_epochs: n.
        top_k: k, by the value that selects best.ckpt; None: all of them.
    """

    def __init__(
        self,
        every_n_epochs: Annotated[int, Option("epochs between checkpoints", Integer(1))],
        top_k: Annotated[
            int | None,
            Option("number of best checkpoints; null: all", AnyOf((Integer(1), Choice((None,))))),
        ],
    ) -> None:
        self.every_n_epochs, self.top_k = every_n_epochs, top_k

    def kept(self, rows: Sequence[dict[str, float]], selected_by: str) -> list[int]:
        """The epochs whose checkpoints are kept after the epochs of these rows."""
        candidates = [row for row in rows if row["epoch"] % self.every_n_epochs == 0]
        if self.top_k is not None:
            validated = [row for row in candidates if selected_by in row]
            validated.sort(key=lambda row: row[selected_by])
            candidates = (validated or candidates[::-1])[: self.top_k]  # else the last ones
        return [int(row["epoch"]) for row in candidates]

    def keep(self, source: Path, rows: Sequence[dict[str, float]], selected_by: str) -> None:
        """Keeps the checkpoint of the last row, and removes those that are no longer wanted."""
        kept = [f"epoch-{epoch}.ckpt" for epoch in self.kept(rows, selected_by)]
        name = f"epoch-{rows[-1]['epoch']:.6g}.ckpt"  # kept only after a whole epoch
        if name in kept:
            link(source, source.parent / name)
        for path in source.parent.glob("epoch-*.ckpt"):
            if path.name not in kept:
                path.unlink()
