"""Report: ``python -m vae_lightning.report sweep=SWEEP``. A table of a sweep's jobs, and what they trade for what."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vae_lightning import cli, runs, sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = dict[str, object]
COLOUR = "#332288"


def main() -> None:
    """The command line."""
    with cli.exit_codes():
        cfg = cli.command("report", sys.argv[1:])
        if cfg is None:
            return
        folder = Path(cfg.sweep)
        rows = sweep.collect(folder)
        if not rows:
            raise cli.UsageError(f"sweep={folder}: must be a sweep folder (no jobs there)")
        runs.write_csv(folder / "sweep.csv", rows)
        print(sweep.table(rows, folder))
        for path in plots(rows, folder):
            print(path)


def plots(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draws what the finished jobs have numbers for; the paths."""
    from matplotlib.figure import Figure

    done = [row for row in rows if isinstance(row["test/kl"], float)]
    if not done:
        return []
    names = labels(done)
    paths = []
    for name, draw in (("rate_distortion", rate_distortion), ("active_units", active_units)):
        figure = Figure(figsize=(7.5, 5.5), layout="constrained")
        draw(figure.add_subplot(), done, names)
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=150)
    return paths


def labels(rows: Sequence[Row]) -> list[str]:
    """The overrides in which the jobs differ, as short as they can be told apart."""
    keys = [key for key in rows[0] if key not in sweep.FIXED and len({str(row.get(key, "")) for row in rows}) > 1]
    return [", ".join(f"{key.rpartition('.')[2]}={row.get(key, '')}" for key in keys) or "the job" for row in rows]


def rate_distortion(axes: "Axes", rows: Sequence[Row], names: Sequence[str]) -> None:
    """KL against recon on the test images; along a grey line their sum, -ELBO, is the same."""
    rate, distortion = ([row[f"test/{term}"] for row in rows] for term in ("kl", "recon"))
    axes.scatter(rate, distortion, color=COLOUR, zorder=3)
    for x, y, name in zip(rate, distortion, names, strict=True):
        axes.annotate(name, (x, y), xytext=(6, 4), textcoords="offset points", fontsize=9)
    axes.margins(0.15)
    for total in {round(x + y) for x, y in zip(rate, distortion, strict=True)}:
        axes.axline((0, total), slope=-1, color="#cccccc", linewidth=0.8, zorder=1)
    axes.set(xlabel="rate: KL, nats per image", ylabel="distortion: recon, nats per image", title="Test images")


def active_units(axes: "Axes", rows: Sequence[Row], names: Sequence[str]) -> None:
    """Active units of each job."""
    values = [float(row["latents/active_units"] or 0) for row in rows]
    bars = axes.barh(range(len(rows)), values, color=COLOUR)
    axes.bar_label(bars, [f"{value:.0f}" for value in values], padding=3)
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.set(xlabel="active units: latent dimensions with Var(E[z|x]) > 0.01", title="Test images")


if __name__ == "__main__":
    main()
