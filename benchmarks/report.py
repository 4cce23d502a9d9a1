"""Writes the results of a measurement: Markdown tables and charts."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib import pyplot

from benchmarks import machine
from benchmarks.measure import Timing, ratio

matplotlib.use("Agg")
OURS, OTHERS = "#332288", "#88CCEE"  # from Paul Tol's muted scheme


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table; all columns but the first are aligned to the right."""
    lines = [
        " | ".join(header),
        " | ".join(["---"] + ["---:"] * (len(header) - 1)),
        *(" | ".join(row) for row in rows),
    ]
    return "\n".join(f"| {line} |" for line in lines)


def seconds(timings: Sequence[Timing]) -> float:
    """Returns the median over the rounds of the seconds per epoch."""
    return statistics.median(timing.epoch for timing in timings)


def page(title: str, command: str, about: str, body: str) -> str:
    """Returns a results page: the command, the machine, a description and the results."""
    return f"# {title}\n\nMade by `{command}`.\n\n{machine.describe()}\n\n{about}\n\n{body}\n"


def speed(groups: Sequence[Mapping[str, Sequence[Timing]]], targets: Mapping[str, str]) -> str:
    """Returns the table of all contenders.

    All contenders of a group had the same workload. The first two of each group are compared with
    the others.
    """
    rows = []
    for timings in groups:
        first, second = list(timings)[:2]
        for name, values in timings.items():
            ratios = [
                f"{ratio(timings[mine], values):.2f}" if name != mine else ""
                for mine in (first, second)
            ]
            row = (name, f"{seconds(values):.2f}", *ratios, targets.get(name, ""))
            rows.append((*row, f"{min(v.ends[0] for v in values):.1f}", f"{values[-1].loss:.2f}"))
    header = (
        "",
        "s per epoch",
        "ours / this",
        "plain step / this",
        "target",
        "s to end of 1st epoch",
    )
    return table((*header, "last train -ELBO"), rows)


def bars(path: Path, values: Mapping[str, float], label: str) -> None:
    """Draws horizontal bars; the first one has our color."""
    figure, axes = pyplot.subplots(figsize=(7, 0.6 + 0.45 * len(values)), layout="constrained")
    shown = axes.barh(
        range(len(values)), list(values.values()), color=[OURS] + [OTHERS] * (len(values) - 1)
    )
    axes.bar_label(shown, [f"{value:.2f}" for value in values.values()], padding=3)
    axes.set_yticks(range(len(values)), list(values))
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.margins(x=0.1)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Returns the slope b of the least-squares line log value = a + b log size.

    The cost grows like size^b.
    """
    xs, ys = [math.log(size) for size in sizes], [math.log(value) for value in values]
    mean_x, mean_y = statistics.fmean(xs), statistics.fmean(ys)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / sum(
        (x - mean_x) ** 2 for x in xs
    )


def curves(path: Path, growth: Mapping[str, Mapping[float, float]]) -> None:
    """Draws a panel per quantity: seconds per epoch against size on logarithmic axes."""
    columns = 3
    rows = -(-len(growth) // columns)
    figure, grid = pyplot.subplots(
        rows, columns, figsize=(10, 3 * rows), layout="constrained", squeeze=False
    )
    for axes, (name, points) in zip(grid.flat, growth.items(), strict=False):
        axes.loglog(list(points), list(points.values()), "o-", color=OURS)
        axes.set_xticks(list(points), [f"{size:,.0f}" for size in points], rotation=45)
        axes.minorticks_off()
        axes.set_title(
            f"{name}: size^{exponent(list(points), list(points.values())):.2f}", fontsize=10
        )
        axes.set_ylabel("seconds per epoch")
    for axes in list(grid.flat)[len(growth) :]:
        axes.set_visible(False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
