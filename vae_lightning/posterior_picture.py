"""A page of true posteriors and what the encoder says of them, one panel an image. Imports matplotlib.

Shapes: P points of a grid, L = 1 or 2 latent dimensions.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from vae_lightning.distributions import DiagonalNormal, FullNormal
from vae_lightning.posterior_grid import TERMS, Claim
from vae_lightning.quadrature import Grid

# a normal in two dimensions has this mass within 1, 2, 3 standard deviations, so that where q is the posterior its
# ellipses are the edges of the shades
MASS = tuple(1 - math.exp(-(sigmas**2) / 2) for sigmas in (1, 2, 3))
SHADES = ("#4292c6", "#9ecae1", "#deebf7")  # ColorBrewer's blues, the innermost first
LINE = "#d55e00"  # vermilion of Okabe & Ito: told from blue by every eye
INK, FAINT = "#222222", "#777777"
COLUMNS, PANEL = 4, 2.9  # panels in a row, inches of one
INSET = 0.27  # width of the image, of the panel's


def draw(path: Path, images: Tensor, claims: Sequence[Claim], title: str) -> None:
    """Writes the page as PNG in one step: images (B, C, H, W) in [0, 1], and what holds for each."""
    rows = -(-len(claims) // COLUMNS)
    width, height = COLUMNS * PANEL + 0.3, rows * (PANEL + 0.15) + 1.5
    figure = Figure(figsize=(width, height), facecolor="white")
    figure.text(0.16 / width, 1 - 0.16 / height, title, va="top", size=13, weight="bold", color=INK)
    explanation = (
        "log p(x) = Lb + KL(q(z|x) ‖ p(z|x)) in nats, by integration over z."
        f" Mean: {equation(claims)}. Above each panel: of the image in it."
    )
    figure.text(0.16 / width, 1 - 0.47 / height, explanation, va="top", size=10, color=FAINT)
    panels = figure.subplots(rows, COLUMNS, squeeze=False)
    figure.subplots_adjust(
        left=0.4 / width, right=1 - 0.15 / width, bottom=0.72 / height, top=1 - 1.05 / height, hspace=0.17, wspace=0.2
    )
    for axes in panels.flat[len(claims) :]:
        axes.remove()
    for axes, image, claim in zip(panels.flat, images, claims, strict=False):
        panel(axes, image, claim)
    figure.legend(handles=legend(claims[0]), loc="lower left", ncols=4, frameon=False, fontsize=10,
                  bbox_to_anchor=(0.05 / width, 0.02 / height), handlelength=1.6, columnspacing=1.5)  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, format="png", dpi=150)
    os.replace(temporary, path)


def equation(claims: Sequence[Claim]) -> str:
    """log p(x) = Lb + KL in numbers, means over the images."""
    log_p, bound, gap = (sum(getattr(claim, name) for claim in claims) / len(claims) for name in TERMS)
    return f"{log_p:.2f} = {bound:.2f} + {gap:.2f}".replace("-", "−")  # noqa: RUF001


def panel(axes: Axes, image: Tensor, claim: Claim) -> None:
    """One image: posterior, q, the numbers, and the image in the corner that is emptiest."""
    (line if len(claim.grid.axes) == 1 else plane)(axes, claim)
    axes.set_title(equation([claim]), size=10.5, color=INK, pad=4)
    axes.tick_params(labelsize=7.5, color=FAINT, labelcolor=FAINT, length=2.5)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    for spine in axes.spines.values():
        spine.set_color("#bbbbbb")
    inset = axes.inset_axes([*emptiest_corner(axes, claim), INSET, INSET], zorder=5)
    inset.imshow(image.mean(0).cpu(), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    inset.set(xticks=[], yticks=[])
    for spine in inset.spines.values():
        spine.set_color("#bbbbbb")


def plane(axes: Axes, claim: Claim) -> None:
    """Two latent dimensions: shades of the posterior, the 1- and 2-sigma lines of q, axes of equal scale."""
    grid = claim.grid
    first, second = (axis.numpy() for axis in grid.axes)

    def on_grid(log_density: Tensor) -> Tensor:
        return log_density.view(grid.shape).T.numpy()

    levels = [mass_level(grid, claim.log_posterior, mass) for mass in MASS]
    highest = float(claim.log_posterior.max()) + 1
    axes.contourf(first, second, on_grid(claim.log_posterior), [*levels[::-1], highest], colors=SHADES[::-1])
    axes.contour(first, second, on_grid(claim.log_posterior), levels[::-1], colors="white", linewidths=0.6,
                 linestyles="solid")  # fmt: skip
    if is_normal(claim):
        for sigmas in (1, 2):  # the image of a circle under z = mean + T eps
            ellipse = claim.posterior.rsample(sigmas * circle())[:, 0]
            axes.plot(*ellipse.T.numpy(), color=LINE, lw=1.9 / sigmas**0.6)
    else:
        lines = [mass_level(grid, claim.log_q, mass) for mass in MASS[1::-1]]
        axes.contour(
            first, second, on_grid(claim.log_q), lines, colors=LINE, linewidths=(1.25, 1.9), linestyles="solid"
        )
    shown = (claim.log_posterior > levels[2]) | (claim.log_q > claim.log_q.max() - 4)
    low, high = grid.points[shown].amin(0), grid.points[shown].amax(0)
    half = 0.56 * float((high - low).max())
    x, y = ((low + high) / 2).tolist()
    axes.set(xlim=(x - half, x + half), ylim=(y - half, y + half), aspect="equal")


def is_normal(claim: Claim) -> bool:
    """Whether lines of equal density of q are ellipses."""
    return isinstance(claim.posterior, DiagonalNormal | FullNormal)


def line(axes: Axes, claim: Claim) -> None:
    """One latent dimension: the two densities."""
    (z,) = (axis.numpy() for axis in claim.grid.axes)
    densities = claim.log_posterior.exp(), claim.log_q.exp()
    axes.fill_between(z, densities[0].numpy(), color=SHADES[1], lw=0)
    axes.plot(z, densities[1].numpy(), color=LINE, lw=1.9)
    shown = claim.grid.axes[0][(densities[0] > 1e-3 * densities[0].max()) | (densities[1] > 1e-3 * densities[1].max())]
    axes.set(xlim=(float(shown[0]), float(shown[-1])), ylim=(0, 1.35 * float(torch.stack(densities).max())))


def mass_level(grid: Grid, log_density: Tensor, mass: float) -> float:
    """The log density above which lies this much of the mass."""
    ordered = log_density.sort(descending=True).values
    inside = grid.step.prod() * ordered.exp().cumsum(0)
    return float(ordered[int((inside < mass).sum().clamp(max=len(ordered) - 1))])


def circle(points: int = 181) -> Tensor:
    """Points of the unit circle as noise, (points, 1, 2)."""
    angle = torch.linspace(0, 2 * math.pi, points, dtype=torch.float64)
    return torch.stack([angle.cos(), angle.sin()], dim=-1).unsqueeze(1)


def emptiest_corner(axes: Axes, claim: Claim) -> tuple[float, float]:
    """The lower left corner of the inset, as a fraction of the panel: where there is least of posterior and q."""
    if len(claim.grid.axes) == 1:
        return 1 - INSET - 0.02, 1 - INSET - 0.02
    low = torch.tensor([axes.get_xlim()[0], axes.get_ylim()[0]], dtype=torch.float64)
    size = torch.tensor([axes.get_xlim()[1], axes.get_ylim()[1]], dtype=torch.float64) - low
    place = (claim.grid.points - low) / size  # (P, 2)
    shares = [log_density.softmax(0) for log_density in (claim.log_posterior, claim.log_q)]

    def covered(corner: tuple[float, float]) -> float:
        start = torch.tensor(corner, dtype=torch.float64)
        inside = ((place > start - 0.03) & (place < start + INSET + 0.03)).all(-1)
        return float(sum(share[inside].sum() for share in shares))

    near, far = 0.02, 1 - INSET - 0.02
    return min([(far, far), (near, far), (far, near), (near, near)], key=covered)


def legend(claim: Claim) -> list[Patch | Line2D]:
    """What the shades and lines are."""
    if len(claim.grid.axes) == 1:
        return [Patch(color=SHADES[1], label="posterior p(z|x)"), Line2D([], [], color=LINE, lw=1.9, label="q(z|x)")]
    shades = [
        Patch(color=shade, label=("posterior p(z|x): " if not number else "") + f"{mass:.0%} of its mass")
        for number, (shade, mass) in enumerate(zip(SHADES, MASS, strict=True))
    ]
    lines = f"q(z|x): {MASS[0]:.0%} and {MASS[1]:.0%}" + (", 1 and 2 sigma" if is_normal(claim) else "")
    return [*shades, Line2D([], [], color=LINE, lw=1.9, label=lines)]
