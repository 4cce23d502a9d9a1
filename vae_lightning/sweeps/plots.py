"""Plots of the jobs of a sweep."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vae_lightning.plots.palette import MAIN, PALE
from vae_lightning.storage.files import atomic_write, number
from vae_lightning.sweeps.tables import OTHER_COLUMNS, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plots(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draws the plots of the finished jobs and returns their paths."""
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
        with atomic_write(paths[-1]) as temporary:
            figure.savefig(temporary, format="png", dpi=150)
    return paths


def labels(rows: Sequence[Row]) -> list[str]:
    """A short label for each job: the overrides in which the jobs differ."""
    keys = [
        key
        for key in rows[0]
        if key not in OTHER_COLUMNS and len({str(row.get(key, "")) for row in rows}) > 1
    ]
    return [
        ", ".join(f"{key.rpartition('.')[2]}={row.get(key, '')}" for key in keys) or "the job"
        for row in rows
    ]


def rate_distortion(axes: "Axes", rows: Sequence[Row], names: Sequence[str]) -> None:
    """Plots KL against recon on the test images; each gray line has constant -ELBO = recon + KL."""
    rate, distortion = ([number(row, f"test/{term}") for row in rows] for term in ("kl", "recon"))
    axes.scatter(rate, distortion, color=MAIN, zorder=3)
    for x, y, name in zip(rate, distortion, names, strict=True):
        axes.annotate(name, (x, y), xytext=(6, 4), textcoords="offset points", fontsize=9)
    axes.margins(0.15)
    for total in {round(x + y) for x, y in zip(rate, distortion, strict=True)}:
        axes.axline((0, total), slope=-1, color=PALE, linewidth=0.8, zorder=1)
    axes.set(
        xlabel="rate: KL, nats per image",
        ylabel="distortion: recon, nats per image",
        title="Test images",
    )


def active_units(axes: "Axes", rows: Sequence[Row], names: Sequence[str]) -> None:
    """Plots the number of active units of each job."""
    name = "latents/active_units"
    values = [number(row, name) if row[name] else 0.0 for row in rows]
    bars = axes.barh(range(len(rows)), values, color=MAIN)
    axes.bar_label(bars, [f"{value:.0f}" for value in values], padding=3)
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.set(xlabel="active units: latent dimensions with Var(E[z|x]) > 0.01", title="Test images")
