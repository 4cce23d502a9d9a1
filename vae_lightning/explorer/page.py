"""The page: template, style and scripts of this folder joined with a model's numbers into one HTML file."""

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

HERE = Path(__file__).parent
SCRIPTS = ("decoder.js", "plane.js", "events.js", "page.js")


def base64_of(values: Tensor, dtype: torch.dtype = torch.float32) -> str:
    """The numbers as bytes in base64, little-endian, as every browser's typed arrays are."""
    return base64.b64encode(values.detach().to(dtype).contiguous().numpy().tobytes()).decode("ascii")


def decoder_content(ops: list[Op]) -> dict[str, object]:
    """Operations whose weights are [start, length] in one array of float32."""
    parts: list[Tensor] = []
    start, listed = 0, []
    for op in ops:
        where = {}
        for name, values in op.weights.items():
            parts.append(values.detach().float().flatten())
            where[name] = [start, len(parts[-1])]
            start += len(parts[-1])
        listed.append({"kind": op.kind, "inputs": op.inputs, "size": op.size, **op.numbers, **where})
    return {"ops": listed, "weights": base64_of(torch.cat(parts) if parts else torch.zeros(0))}


def encoded_content(encoded: Encoded) -> dict[str, object]:
    """Encoded images and what is known of each."""
    return {
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
    """The whole page as text."""
    parts = {
        "TITLE": html.escape(title),
        "STYLE": (HERE / "page.css").read_text(),
        "SCRIPT": "\n".join((HERE / name).read_text() for name in SCRIPTS),
        "CONTENT": json.dumps(content).replace("<", "\\u003c"),  # no string in it can end the element that holds it
    }
    return re.sub(r"\[\[([A-Z]+)\]\]", lambda place: parts[place[1]], (HERE / "page.html").read_text())
