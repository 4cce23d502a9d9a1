"""Draws pictures with matplotlib, as vector graphics for papers: PDF and SVG."""

from pathlib import Path

import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vae_lightning.plots.canvas import named_labels, shown_size, tile
from vae_lightning.plots.palette import CATEGORIES, MAIN
from vae_lightning.plots.picture import Bars, Grid, Picture, Scatter
from vae_lightning.storage.files import atomic_write

# text stays text, and the same picture is always the same file
SETTINGS = {"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "vae_lightning"}
POINTS_PER_PIXEL = 0.5  # of a grid


def save_figure(path: Path, picture: Picture) -> None:
    """Writes a picture as PDF or SVG, after the suffix of the path, atomically."""
    with rc_context(SETTINGS):  # pyright: ignore[reportArgumentType] - a dict of these keys
        figure = draw(picture)
        kind = path.suffix[1:]
        dated = {"pdf": "CreationDate", "svg": "Date"}[kind]
        with atomic_write(path) as temporary:
            figure.savefig(temporary, format=kind, bbox_inches="tight", metadata={dated: None})


def draw(picture: Picture) -> Figure:
    """Draws a picture with its title, subtitle and axes."""
    figure = Figure(figsize=size(picture))
    axes = figure.add_subplot()
    if isinstance(picture, Grid):
        draw_grid(axes, picture)
    elif isinstance(picture, Scatter):
        draw_scatter(axes, picture)
    else:
        draw_bars(axes, picture)
    axes.set_title(f"{picture.title}\n{picture.subtitle}", fontsize=8, loc="left")
    return figure


def size(picture: Picture) -> tuple[float, float]:
    """Width and height in inches, without titles."""
    if isinstance(picture, Grid):
        rows, columns = picture.images.shape[:2]
        height, width = shown_size(picture.images, picture.size)
        inches = POINTS_PER_PIXEL / 72
        return max(2.0, columns * width * inches), max(1.0, rows * height * inches)
    if isinstance(picture, Scatter):
        return 5.0, 5.0
    return 5.0, 0.6 + 0.18 * len(picture.values)


def draw_grid(axes: Axes, picture: Grid) -> None:
    """Draws the images; names stand beside their rows and above their columns."""
    rows, columns = picture.images.shape[:2]
    sheet = tile(picture.images, size=112)
    axes.imshow(sheet, cmap="gray", extent=(0, columns, rows, 0), aspect="auto", vmin=0, vmax=255)
    axes.xaxis.set_ticks_position("top")
    axes.set_xticks([c + 0.5 for c in range(len(picture.columns))], picture.columns, fontsize=6)
    axes.set_yticks([r + 0.5 for r in range(len(picture.rows))], picture.rows, fontsize=6)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.xaxis.set_label_position("bottom")
    axes.set_xlabel(picture.x_axis, fontsize=8)
    axes.set_ylabel(picture.y_axis, fontsize=8)


def draw_scatter(axes: Axes, picture: Scatter) -> None:
    """Draws the points and, at the median of each label, the label."""
    points, labels = picture.points.cpu(), picture.labels.cpu()
    named = named_labels(labels)
    for label in labels.unique().tolist():
        members = points[labels == label]
        color = CATEGORIES[label % len(CATEGORIES)]
        axes.scatter(members[:, 0].numpy(), members[:, 1].numpy(), s=3, c=color, linewidths=0)
        if label not in named:
            continue
        x, y = torch.median(members, 0).values.tolist()
        box = {"boxstyle": "round", "facecolor": "white", "edgecolor": color}
        name = picture.names[int(label)]
        axes.text(x, y, name, fontsize=8, ha="center", va="center", bbox=box)
    axes.set_xlabel(picture.x_axis)
    axes.set_ylabel(picture.y_axis)
    if not picture.y_axis:
        axes.set_yticks([])
    axes.set_box_aspect(1)


def draw_bars(axes: Axes, picture: Bars) -> None:
    """Draws the bars, the first one at the top."""
    axes.barh(range(len(picture.values)), picture.values, color=MAIN)
    axes.set_yticks(range(len(picture.names)), picture.names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel(picture.x_axis)
