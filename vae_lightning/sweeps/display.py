"""Shows how far a sweep is: a live table on a terminal, one line per event elsewhere."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vae_lightning.checks.errors import ConfigError, decimals, escaped
from vae_lightning.storage.files import read_csv
from vae_lightning.sweeps.plan import Job

if TYPE_CHECKING:
    from rich.table import Table

LOG_LINES = 5  # of a failed job that are shown
REDRAWN_S = 0.5
OVER = ("finished", "pruned", "failed")  # states of jobs that this command does not run again
COLORS = {
    "running": "cyan",
    "finished": "green",
    "pruned": "blue",
    "failed": "red",
    "interrupted": "yellow",
}


@dataclass
class Entry:
    """What is shown of a job."""

    job: Job
    folder: Path
    epochs: int  # that the job will have
    state: str = "waiting"
    started: float = 0.0
    cells: dict[str, str] = field(default_factory=dict)
    split: str = "val"  # whose terms the cells have

    def read(self) -> None:
        """Reads the row of the last epoch in metrics.csv."""
        try:
            table = read_csv(self.folder / "metrics.csv")
        except ConfigError:
            return  # the report says what is damaged
        rows = [row for row in table if row.get("train/recon")]  # not validations within epochs
        if not rows:
            return
        row = rows[-1]
        self.split = split = "val" if row.get("val/recon") else "train"
        names = {"recon": "recon", "kl": "KL", "neg_elbo": "-ELBO"}
        self.cells = {
            shown: decimals(float(row[f"{split}/{name}"]), 2) for name, shown in names.items()
        }
        done = int(float(row["epoch"]))
        self.cells["epoch"] = f"{done}/{self.epochs}"
        seconds = sum(float(row["seconds"]) for row in rows[-3:]) / len(rows[-3:])
        left = (self.epochs - done) * seconds
        self.cells["left"] = duration(left) if self.state == "running" else ""


def duration(seconds: float) -> str:
    """Seconds in short form: 8 s, 3 min, 2.5 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


class Display:
    """Prints one line per event.

    Args:
        entries: the jobs that are known; those of a search are drawn one by one.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries: dict[str, Entry] = {entry.job.name: entry for entry in entries}
        self.total = len(self.entries)

    def expect(self, number: int) -> None:
        """So many more jobs will come, or fewer if the number is negative."""
        self.total += number

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left open."""

    def say(self, text: str) -> None:
        """Prints a line, without characters that a terminal would obey."""
        print(escaped(text), flush=True)

    def started(self, entry: Entry) -> None:
        """A job was started; it may be a new one."""
        entry = self.entries.setdefault(entry.job.name, entry)
        entry.state, entry.started = "running", time.monotonic()
        self.event(entry)

    def ended(self, job: Job, state: str, reason: str, log: Path) -> None:
        """A job has ended; if it failed, prints why and the last lines of its log."""
        entry = self.entries[job.name]
        entry.state = state
        entry.read()
        if state == "failed":
            self.say(f"{job}: failed: {reason}")
            lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
            for line in lines[-LOG_LINES:]:
                if line.removeprefix("error: ") != reason:
                    self.say(f"  {line}")
            self.say(f"  (all of it: {log})")
        else:
            self.event(entry)

    def event(self, entry: Entry) -> None:
        """Prints the state of a job, and its terms if it has some."""
        done = sum(each.state in OVER for each in self.entries.values())
        terms = ", ".join(
            f"{entry.split} {name} {entry.cells[name]}"
            for name in ("-ELBO", "recon", "KL")
            if name in entry.cells
        )
        took = duration(time.monotonic() - entry.started) if entry.state != "running" else ""
        details = ", ".join(part for part in (terms, took) if part)
        text = f"[{done}/{self.total}] {entry.job}: {entry.state}"
        self.say(f"{text}, {details}" if details else text)

    def tick(self) -> None:
        """Called several times a second."""


class LiveTable(Display):
    """A table on a terminal that is redrawn in place; only failures stay above it."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        super().__init__(entries)
        from rich.console import Console
        from rich.live import Live

        self.console = Console(highlight=False, emoji=False)
        self.live = Live(console=self.console, auto_refresh=False, transient=True)
        self.drawn = 0.0

    def __enter__(self) -> "LiveTable":
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Removes the table; the final one follows."""
        self.live.stop()

    def say(self, text: str) -> None:
        """Prints a line above the table."""
        self.console.print(escaped(text), markup=False, soft_wrap=True)

    def event(self, entry: Entry) -> None:
        """The table shows it."""
        self.draw()

    def tick(self) -> None:
        """Redraws the table from time to time."""
        if time.monotonic() - self.drawn >= REDRAWN_S:
            for entry in self.entries.values():
                if entry.state == "running":
                    entry.read()
            self.draw()

    def draw(self) -> None:
        """Draws the table."""
        self.drawn = time.monotonic()
        self.live.update(self.table(self.console.height - 6), refresh=True)

    def table(self, most: int) -> "Table":
        """As many jobs as fit: the running ones, then failed, ended and waiting ones."""
        from rich.table import Table
        from rich.text import Text

        order = ("running", "failed", "interrupted", "finished", "pruned", "waiting")
        entries = sorted(self.entries.values(), key=lambda entry: order.index(entry.state))
        counts = [sum(entry.state == state for entry in entries) for state in order]
        counts[-1] += self.total - len(entries)
        summary = ", ".join(f"{n} {state}" for n, state in zip(counts, order, strict=True) if n)
        hidden = len(entries) - max(1, most)
        splits = "/".join(sorted({each.split for each in entries if each.cells}))
        caption = f"{summary}{f'; {hidden} not shown' if hidden > 0 else ''}"
        caption += f"; terms of {splits}" if splits else ""
        columns = ("epoch", "recon", "KL", "-ELBO", "left")
        table = Table("job", "state", box=None, caption=caption, caption_justify="left")
        for name in columns:
            table.add_column(name, justify="right", no_wrap=True)
        for entry in entries[: max(1, most)]:
            state = Text(entry.state, style=COLORS.get(entry.state, "dim"))
            cells = [entry.cells.get(name, "") for name in columns]
            table.add_row(Text(str(entry.job), no_wrap=True, overflow="ellipsis"), state, *cells)
        return table


def make_display(entries: Sequence[Entry]) -> Display:
    """A live table if standard output is a terminal."""
    return LiveTable(entries) if sys.stdout.isatty() else Display(entries)
