"""A picture that compares true posteriors with the encoder's q(z|x), one panel per image.

This module imports matplotlib.

Shapes: P points of a grid, L = 1 or 2 latent dimensions.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from vae_lightning.data.shown import visible
from vae_lightning.plots.palette import ACCENT, FAINT, INK, PALE, SHADES
from vae_lightning.storage.files import atomic_write
from vae_lightning.verification.posterior import EQUATION_TERMS, PosteriorCheck
from vae_lightning.verification.quadrature import Grid

# The mass of a two-dimensional normal distribution within 1, 2 and 3 standard deviations. If q
# equals the posterior, the ellipses of q are the edges of the shaded regions.
MASS = tuple(1 - math.exp(-(sigmas**2) / 2) for sigmas in (1, 2, 3))
COLUMNS, PANEL = 4, 2.9  # panels per row, size of a panel in inches
INSET = 0.27  # width of the image as a fraction of the width of the panel


def draw(path: Path, images: Tensor, checks: Sequence[PosteriorCheck], title: str) -> None:
    """Writes the picture of images (B, C, H, W) in [0, 1] and their checks as a PNG, atomically."""
    rows = -(-len(checks) // COLUMNS)
    width, height = COLUMNS * PANEL + 0.3, rows * (PANEL + 0.15) + 1.5
    figure = Figure(figsize=(width, height), facecolor="white")
    figure.text(0.16 / width, 1 - 0.16 / height, title, va="top", size=13, weight="bold", color=INK)
    explanation = (
        "log p(x) = ELBO + KL(q(z|x) ‖ p(z|x)) in nats, by integration over z."
        f" Mean: {equation(checks)}. The panel titles show the values of each image."
    )
    figure.text(0.16 / width, 1 - 0.47 / height, explanation, va="top", size=10, color=FAINT)
    panels = figure.subplots(rows, COLUMNS, squeeze=False)
    figure.subplots_adjust(
        left=0.4 / width,
        right=1 - 0.15 / width,
        bottom=0.72 / height,
        top=1 - 1.05 / height,
        hspace=0.17,
        wspace=0.2,
    )
    for axes in panels.flat[len(checks) :]:
        axes.remove()
    for axes, image, check in zip(panels.flat, images, checks, strict=False):
        draw_panel(axes, image, check)
    figure.legend(
        handles=legend_entries(checks[0]),
        loc="lower left",
        ncols=4,
        frameon=False,
        fontsize=10,
        bbox_to_anchor=(0.05 / width, 0.02 / height),
        handlelength=1.6,
        columnspacing=1.5,
    )
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def equation(checks: Sequence[PosteriorCheck]) -> str:
    """The equation log p(x) = ELBO + KL with numbers, averaged over the images."""
    log_p, bound, gap = (
        sum(getattr(check, name) for check in checks) / len(checks) for name in EQUATION_TERMS
    )
    return f"{log_p:.2f} = {bound:.2f} + {gap:.2f}".replace("-", "−")  # noqa: RUF001


def draw_panel(axes: Axes, image: Tensor, check: PosteriorCheck) -> None:
    """Draws the posterior, q and the numbers of an image, and the image in the emptiest corner."""
    (draw_1d if len(check.grid.axes) == 1 else draw_2d)(axes, check)
    axes.set_title(equation([check]), size=10.5, color=INK, pad=4)
    axes.tick_params(labelsize=7.5, color=FAINT, labelcolor=FAINT, length=2.5)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    for spine in axes.spines.values():
        spine.set_color(PALE)
    inset = axes.inset_axes((*emptiest_corner(axes, check), INSET, INSET), zorder=5)
    shown = visible(image.cpu()).movedim(0, -1).numpy()  # (H, W, 1 or 3)
    inset.imshow(shown, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    inset.set(xticks=[], yticks=[])
    for spine in inset.spines.values():
        spine.set_color(PALE)


def draw_2d(axes: Axes, check: PosteriorCheck) -> None:
    """Draws two latent dimensions: the shaded posterior and the 1- and 2-sigma contours of q."""
    grid = check.grid
    first, second = (axis.numpy() for axis in grid.axes)

    def on_grid(log_density: Tensor) -> np.ndarray:
        return log_density.view(grid.shape).T.numpy()

    levels = [mass_level(grid, check.log_posterior, mass) for mass in MASS]
    highest = float(check.log_posterior.max()) + 1
    axes.contourf(
        first, second, on_grid(check.log_posterior), [*levels[::-1], highest], colors=SHADES[::-1]
    )
    axes.contour(
        first,
        second,
        on_grid(check.log_posterior),
        levels[::-1],
        colors="white",
        linewidths=0.6,
        linestyles="solid",
    )
    if is_normal(check):
        for sigmas in (1, 2):  # z = mean + T eps maps a circle to an ellipse
            ellipse = check.posterior.transform(sigmas * circle())[:, 0]
            axes.plot(*ellipse.T.numpy(), color=ACCENT, lw=1.9 / sigmas**0.6)
    else:
        lines = [mass_level(grid, check.log_q, mass) for mass in MASS[1::-1]]
        axes.contour(
            first,
            second,
            on_grid(check.log_q),
            lines,
            colors=ACCENT,
            linewidths=(1.25, 1.9),
            linestyles="solid",
        )
    shown = (check.log_posterior > levels[2]) | (check.log_q > check.log_q.max() - 4)
    low, high = grid.points[shown].amin(0), grid.points[shown].amax(0)
    half = 0.56 * float((high - low).max())
    x, y = ((low + high) / 2).tolist()
    axes.set(xlim=(x - half, x + half), ylim=(y - half, y + half), aspect="equal")


def is_normal(check: PosteriorCheck) -> bool:
    """Whether q is a normal distribution, whose contours are ellipses."""
    return check.posterior.marginals() is not None


def draw_1d(axes: Axes, check: PosteriorCheck) -> None:
    """Draws one latent dimension: the densities of the posterior and of q."""
    (z,) = (axis.numpy() for axis in check.grid.axes)
    densities = check.log_posterior.exp(), check.log_q.exp()
    axes.fill_between(z, densities[0].numpy(), color=SHADES[1], lw=0)
    axes.plot(z, densities[1].numpy(), color=ACCENT, lw=1.9)
    shown = check.grid.axes[0][
        (densities[0] > 1e-3 * densities[0].max()) | (densities[1] > 1e-3 * densities[1].max())
    ]
    axes.set(
        xlim=(float(shown[0]), float(shown[-1])),
        ylim=(0, 1.35 * float(torch.stack(densities).max())),
    )


def mass_level(grid: Grid, log_density: Tensor, mass: float) -> float:
    """The log density above which the points of the grid hold the given mass."""
    ordered = log_density.sort(descending=True).values
    inside = grid.step.prod() * ordered.exp().cumsum(0)
    return float(ordered[int((inside < mass).sum().clamp(max=len(ordered) - 1))])


def circle(points: int = 181) -> Tensor:
    """Points on the unit circle, used as noise: (points, 1, 2)."""
    angle = torch.linspace(0, 2 * math.pi, points, dtype=torch.float64)
    return torch.stack([angle.cos(), angle.sin()], dim=-1).unsqueeze(1)


def emptiest_corner(axes: Axes, check: PosteriorCheck) -> tuple[float, float]:
    """The lower left corner, as a fraction of the panel, of the inset that hides the least mass."""
    if len(check.grid.axes) == 1:
        return 1 - INSET - 0.02, 1 - INSET - 0.02
    low = torch.tensor([axes.get_xlim()[0], axes.get_ylim()[0]], dtype=torch.float64)
    size = torch.tensor([axes.get_xlim()[1], axes.get_ylim()[1]], dtype=torch.float64) - low
    place = (check.grid.points - low) / size  # (P, 2)
    shares = [log_density.softmax(0) for log_density in (check.log_posterior, check.log_q)]

    def covered_mass(corner: tuple[float, float]) -> float:
        start = torch.tensor(corner, dtype=torch.float64)
        inside = ((place > start - 0.03) & (place < start + INSET + 0.03)).all(-1)
        return float(sum(share[inside].sum() for share in shares))

    near, far = 0.02, 1 - INSET - 0.02
    return min([(far, far), (near, far), (far, near), (near, near)], key=covered_mass)


def legend_entries(check: PosteriorCheck) -> list[Patch | Line2D]:
    """The entries of the legend: shades for the posterior, lines for q."""
    if len(check.grid.axes) == 1:
        return [
            Patch(color=SHADES[1], label="posterior p(z|x)"),
            Line2D([], [], color=ACCENT, lw=1.9, label="q(z|x)"),
        ]
    shades = [
        Patch(
            color=shade,
            label=("posterior p(z|x): " if not number else "") + f"{mass:.0%} of its mass",
        )
        for number, (shade, mass) in enumerate(zip(SHADES, MASS, strict=True))
    ]
    lines = f"q(z|x): {MASS[0]:.0%} and {MASS[1]:.0%}" + (
        ", 1 and 2 sigma" if is_normal(check) else ""
    )
    return [*shades, Line2D([], [], color=ACCENT, lw=1.9, label=lines)]
