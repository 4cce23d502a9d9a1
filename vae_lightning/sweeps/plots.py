"""Plots that compare the settings of sweeps and runs: means over seeds, with all seeds behind."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vae_lightning.plots.palette import CATEGORIES, FAINT, MAIN, PALE
from vae_lightning.storage.files import atomic_write, read_csv
from vae_lightning.sweeps.results import Setting, labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_NAMED = 12  # settings with a name of their own; more names would cover the points


def write_plots(groups: Sequence[Setting], folder: Path) -> list[Path]:
    """Draws all plots of the finished jobs and returns their paths."""
    return [save_plot(name, groups, folder) for name in PLOTS] if groups else []


def save_plot(name: str, groups: Sequence[Setting], folder: Path) -> Path:
    """Draws one of PLOTS and returns its path."""
    from matplotlib.figure import Figure

    names = [name or "all jobs" for name in labels([group.options for group in groups])]
    height = max(5.0, 0.25 * len(groups)) if name == "active_units" else 5.0
    figure = Figure(figsize=(8, min(height, 60)), layout="constrained")
    PLOTS[name](figure.add_subplot(), groups, names)
    path = folder / f"{name}.png"
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return path


def color(number: int) -> str:
    """The color of a setting; those without a name of their own are gray."""
    return CATEGORIES[number % len(CATEGORIES)] if number < MOST_NAMED else PALE


def legend(axes: "Axes", names: Sequence[str]) -> None:
    """Names the settings beside the plot, where they cover nothing."""
    from matplotlib.lines import Line2D

    shown = [
        Line2D([], [], color=color(number), marker="o", label=shortened(name))
        for number, name in enumerate(names[:MOST_NAMED])
    ]
    if len(names) > MOST_NAMED:
        rest = f"{len(names) - MOST_NAMED} more"
        shown.append(Line2D([], [], color=PALE, marker="o", label=rest))
    axes.legend(handles=shown, loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False)


def shortened(name: str, length: int = 40) -> str:
    """A name that fits beside a plot."""
    return name if len(name) <= length else f"{name[: length - 3]}..."


def rate_distortion(axes: "Axes", groups: Sequence[Setting], names: Sequence[str]) -> None:
    """KL against recon on the test images; on a gray line, recon + KL = -ELBO is constant."""
    for number, group in reversed(list(enumerate(groups))):
        pairs = list(zip(group.values("test/kl"), group.values("test/recon"), strict=True))
        if not pairs:
            continue
        axes.scatter(*zip(*pairs, strict=True), color=color(number), alpha=0.3, s=16, zorder=2)
        mean = [sum(values) / len(pairs) for values in zip(*pairs, strict=True)]
        axes.scatter(*mean, color=color(number), s=45, zorder=3)
    axes.margins(0.1)
    axes.set_xlim(left=max(0.0, axes.get_xlim()[0]))
    totals = equal_sums(*axes.get_xlim(), *axes.get_ylim())
    for total in totals:
        axes.axline((0, total), slope=-1, color=PALE, linewidth=0.8, zorder=1)
    axes.set(xlabel="rate: KL, nats per image", ylabel="distortion: recon, nats per image")
    axes.set_title(
        "Test images; large points are means over seeds, small points are single jobs.\n"
        f"On a gray line recon + KL = -ELBO is constant; the lines are {spaced(totals)}.",
        size=10,
    )
    legend(axes, names)


def equal_sums(left: float, right: float, low: float, high: float) -> list[float]:
    """About six round values of recon + KL within a plot."""
    from matplotlib.ticker import MaxNLocator

    found = MaxNLocator(6).tick_values(left + low, right + high)
    return [float(value) for value in found if left + low < value < right + high]


def spaced(totals: Sequence[float]) -> str:
    """How far apart the lines are, in words."""
    return f"{totals[1] - totals[0]:g} nats apart" if len(totals) > 1 else "far apart"


def learning_curves(axes: "Axes", groups: Sequence[Setting], names: Sequence[str]) -> None:
    """The negative ELBO at each epoch, of the validation images if there are any."""
    from matplotlib.ticker import MaxNLocator

    score = "val/neg_elbo"
    tables = [
        [read_csv(result.folder / "metrics.csv") for result in group.results] for group in groups
    ]
    if not all(any(row.get(score) for row in table) for group in tables for table in group):
        score = "train/neg_elbo"
    lowest: list[float] = []
    for number, group in reversed(list(enumerate(tables))):
        for table in group:
            rows = [row for row in table if row.get(score)]
            epochs = [float(row["epoch"]) for row in rows]
            values = [float(row[score]) for row in rows]
            lowest += values[len(values) // 4 :]  # the first epochs would hide all differences
            mark = "o" if len(epochs) == 1 else None
            axes.plot(epochs, values, color=color(number), linewidth=1.2, marker=mark, alpha=0.8)
    if lowest and max(lowest) > min(lowest):
        margin = 0.05 * (max(lowest) - min(lowest))
        axes.set_ylim(min(lowest) - margin, max(lowest) + margin)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    split = score.partition("/")[0].replace("val", "validation").replace("train", "training")
    axes.set(xlabel="epoch", ylabel=f"-ELBO of the {split} images, nats per image")
    axes.set_title("Each line is one job", size=10)
    legend(axes, names)


def active_units(axes: "Axes", groups: Sequence[Setting], names: Sequence[str]) -> None:
    """The mean number of active units of each setting, with each seed as a point."""
    score = "latents/active_units"
    axes.barh(range(len(groups)), [group.mean(score) or 0.0 for group in groups], color=MAIN)
    for number, group in enumerate(groups):
        if len(group.results) > 1:
            values = group.values(score)
            axes.plot(values, [number] * len(values), "o", color=FAINT, markersize=3)
    axes.set_yticks(range(len(groups)), [shortened(name, 30) for name in names])
    axes.invert_yaxis()
    axes.set_xlabel("active units: latent dimensions with Var(E[z|x]) > 0.01, test images")
    axes.set_title("Bars are means over seeds, points are single jobs", size=10)


# name of the file -> the function that draws it
PLOTS: dict[str, Callable[["Axes", Sequence[Setting], Sequence[str]], None]] = {
    "rate_distortion": rate_distortion,
    "learning_curves": learning_curves,
    "active_units": active_units,
}
