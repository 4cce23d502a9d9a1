"""An HTML page of the images with the lowest log p(x), with their reconstructions and scores."""

import base64
import html
import io
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vae_lightning.plots import canvas
from vae_lightning.runs.run import Run
from vae_lightning.runs.selection import Selection

SHOWN = 25  # images on the page
TITLE = "The most unusual images"
PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 14px sans-serif; color: #222; margin: 1.5em; }}
table {{ border-collapse: collapse; }}
td, th {{ padding: 3px 12px; text-align: right; border-bottom: 1px solid #ddd; }}
img {{ image-rendering: pixelated; height: 84px; vertical-align: middle; }}
</style>
<h1>{title}</h1>
<p>{text}</p>
<table>
{rows}
</table>
</html>
"""


def score_of(rows: Sequence[Mapping[str, object]]) -> str:
    """The column by which images are called unusual: nll or, without it, neg_elbo."""
    return "nll" if "nll" in rows[0] else "neg_elbo"


def page(run: Run, chosen: Selection, rows: Sequence[Mapping[str, object]], note: str = "") -> str:
    """Renders the images with the highest scores, the highest first, and a note about the scores.

    ``rows`` holds what is known about each image of ``chosen``: ``index`` and terms in nats.
    """
    score = score_of(rows)
    scores = torch.tensor([row[score] for row in rows], dtype=torch.float64)
    order = scores.argsort(descending=True, stable=True)[:SHOWN]
    x = chosen.x.x[order]
    decoded = run.reconstruct(x, None if chosen.label is None else chosen.label[order])
    lines = [cells("th", ["image", "reconstruction", *rows[0]])]
    for image, reconstruction, number in zip(x, decoded, order.tolist(), strict=True):
        values = (shown(value) for value in rows[number].values())
        lines.append(cells("td", [element(image), element(reconstruction), *values]))
    text = (
        f"{run.description}; {chosen.description}. Those with the highest {score} come first, in"
        f" nats per image. {note}"
    )
    return PAGE.format(title=TITLE, text=html.escape(text), rows="\n".join(lines))


def cells(tag: str, contents: Sequence[str]) -> str:
    """A row of a table; the contents are HTML."""
    return "<tr>" + "".join(f"<{tag}>{content}</{tag}>" for content in contents) + "</tr>"


def shown(value: object) -> str:
    """A value as HTML; a number of nats with two digits."""
    return f"{value:.2f}" if isinstance(value, float) else html.escape(str(value))


def element(image: Tensor) -> str:
    """An image (D, H, W) in [0, 1] as an HTML element that holds its PNG."""
    encoded = io.BytesIO()
    canvas.to_image(image).save(encoded, format="PNG")
    return f'<img src="data:image/png;base64,{base64.b64encode(encoded.getvalue()).decode()}">'
