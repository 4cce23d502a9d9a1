"""Writes report.html: one file that compares all jobs, and that needs no network and no server."""

import base64
import html
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from vae_lightning.plots.palette import ACCENT, FAINT, MAIN
from vae_lightning.storage.files import read_csv, write_text
from vae_lightning.sweeps.importance import importance
from vae_lightning.sweeps.results import Result, best_of, differing, ranked_by
from vae_lightning.sweeps.tables import SHOWN

PAGE, TEMPLATE = "report.html", Path(__file__).with_name("page.html")
SAMPLES = Path("pictures", "samples.png")  # in a run folder
ROWS = 10  # of the samples that a run draws
THUMBNAIL = (280, 28)  # pixels of a row of samples
MOST_POINTS = 200  # of a learning curve
DIGITS = 5  # significant digits of the numbers on the page


def write_page(results: Sequence[Result], folder: Path) -> Path:
    """Writes the page and returns its path."""
    from plotly.offline import get_plotlyjs

    path = folder / PAGE
    parts = {
        "[[TITLE]]": html.escape(folder.resolve().name),
        "[[DATA]]": json.dumps(content(results, folder), allow_nan=False).replace("<", "\\u003c"),
        "[[PLOTLY]]": get_plotlyjs(),
    }
    page = TEMPLATE.read_text(encoding="utf-8")
    for mark, text in parts.items():
        before, _, after = page.partition(mark)
        page = before + text + after
    write_text(path, page)
    return path


def content(results: Sequence[Result], folder: Path) -> dict[str, object]:
    """What the scripts of the page show."""
    score = ranked_by(results)
    curve = score if score and score.startswith(("val/", "train/")) else "train/neg_elbo"
    keys = differing([each.options for each in results])
    best = [each.folder for each in best_of(results)]
    searched = dict.fromkeys(name for each in results for name in each.metrics)
    names = {name: name for name in searched if name not in SHOWN} | SHOWN
    return {
        "title": folder.resolve().name,
        "keys": keys,
        "scores": {
            name: title
            for name, title in names.items()
            if any(name in each.scores for each in results)
        },
        "score": score,
        "curve": curve,
        "importance": importance(results, keys, score),
        "colors": {"best": ACCENT, "job": MAIN, "pale": FAINT},
        "jobs": [job(each, folder, curve, each.folder in best) for each in results],
    }


def job(result: Result, folder: Path, curve: str, is_best: bool) -> dict[str, object]:
    """What the page shows of a job."""
    epochs, values = learning_curve(result, curve)
    place = os.path.relpath(result.folder.resolve(), folder.resolve())
    return {
        "name": result.folder.name,
        "href": quote(Path(place).as_posix()) + "/",
        "state": result.state,
        "reason": result.reason,
        "best": is_best,
        "options": result.options,
        "scores": {name: rounded(value) for name, value in result.scores.items()},
        "epochs": epochs,
        "values": values,
        "samples": samples(result.folder / SAMPLES),
    }


def rounded(value: float) -> float:
    """A number that is as exact as the page shows it."""
    return float(f"{value:.{DIGITS}g}")


def learning_curve(result: Result, name: str) -> tuple[list[int], list[float]]:
    """Epochs and values of a job, at most about MOST_POINTS, the last one included."""
    if result.state == "damaged":
        return [], []
    rows = [row for row in read_csv(result.folder / "metrics.csv") if row.get(name)]
    rows = rows[:: -max(1, len(rows) // MOST_POINTS)][::-1]
    return [int(row["epoch"]) for row in rows], [rounded(float(row[name])) for row in rows]


def samples(path: Path) -> str | None:
    """The first row of samples of a job as the address of an image; None without a picture."""
    if not path.is_file():
        return None
    from vae_lightning.plots.canvas import first_row

    encoded = io.BytesIO()
    row = first_row(path, ROWS)
    row.thumbnail(THUMBNAIL)
    row.save(encoded, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(encoded.getvalue()).decode('ascii')}"
