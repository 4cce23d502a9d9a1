"""Builds the HTML file from the template, style and scripts of this folder and the model's data."""

import base64
import html
import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vae_lightning.explorer.encoded import SAMPLES, Encoded
from vae_lightning.explorer.translate import Op
from vae_lightning.plots.palette import CATEGORIES

HERE = Path(__file__).parent
SCRIPTS = ("decoder.js", "plane.js", "events.js", "page.js")


def base64_of(values: Tensor, dtype: torch.dtype = torch.float32) -> str:
    """The values as little-endian bytes in base64, the byte order of typed arrays in browsers."""
    return base64.b64encode(values.detach().to(dtype).contiguous().numpy().tobytes()).decode(
        "ascii"
    )


def decoder_content(ops: list[Op]) -> dict[str, object]:
    """The operations, whose weights are [start, length] in one shared float32 array."""
    arrays: list[Tensor] = []
    start, listed = 0, []
    for op in ops:
        ranges = {}
        for name, values in op.weights.items():
            arrays.append(values.detach().float().flatten())
            ranges[name] = [start, len(arrays[-1])]
            start += len(arrays[-1])
        listed.append(
            {"kind": op.kind, "inputs": op.inputs, "size": op.size, **op.parameters, **ranges}
        )
    return {"ops": listed, "weights": base64_of(torch.cat(arrays) if arrays else torch.zeros(0))}


def encoded_content(encoded: Encoded) -> dict[str, object]:
    """The encoded images and their terms."""
    return {
        "colors": CATEGORIES,
        "shape": list(encoded.images.shape[1:]),
        "latents": encoded.mean.shape[1],
        "images": base64_of(encoded.images, torch.uint8),
        "labels": encoded.labels.tolist(),
        "mean": base64_of(encoded.mean),
        "std": base64_of(encoded.std),
        "recon": base64_of(encoded.recon),
        "kl": base64_of(encoded.kl),
        "klIsExact": encoded.kl_is_exact,
        "samples": SAMPLES,
        "information": [round(value, 6) for value in encoded.information.tolist()],
    }


def render(content: Mapping[str, object], title: str) -> str:
    """The complete page as text."""
    parts = {
        "TITLE": html.escape(title),
        "STYLE": (HERE / "page.css").read_text(),
        "SCRIPT": "\n".join((HERE / name).read_text() for name in SCRIPTS),
        # Without "<", no string in the content can close the script element that contains it.
        "CONTENT": json.dumps(content).replace("<", "\\u003c"),
    }
    return re.sub(
        r"\[\[([A-Z]+)\]\]", lambda match: parts[match[1]], (HERE / "page.html").read_text()
    )
