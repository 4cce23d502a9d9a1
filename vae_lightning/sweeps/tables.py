"""Tables of results as text for the terminal, Markdown and LaTeX."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from vae_lightning.checks.errors import decimals
from vae_lightning.cli import tables
from vae_lightning.storage.files import write_text
from vae_lightning.sweeps.results import (
    SCORES,
    Result,
    Setting,
    best_of,
    differing,
    incomparable,
    settings,
)

SHOWN = {  # score -> its column; the scores of one split are recon + kl = -ELBO
    "val/neg_elbo": "val -ELBO",
    "test/recon": "test recon",
    "test/kl": "test KL",
    "test/neg_elbo": "test -ELBO",
    "latents/active_units": "active units",
}
BEST_MARK = "*"
SCORES_OF_PAPER = [score for score in SCORES if score.startswith(("test/", "latents/"))]


def terminal_table(results: Sequence[Result]) -> str:
    """One line per setting if jobs differ in their seed, else one per job; failures at the end.

    A last line says why no job is marked as the best one.
    """
    groups = settings(results)
    seeds = any(len(group.results) > 1 for group in groups)
    others = [each for each in results if each.state != "finished"]
    keys = differing([each.options for each in results])
    if seeds and not others:
        keys = [key for key in keys if key != "seed"]
    best = [each.folder for each in best_of(results)]
    rows = [setting_cells(group, keys, best) for group in groups]
    rows += [job_cells(each, keys) for each in others]
    names = [
        name for name in ("", *keys, "state", "data", "n", *SHOWN.values()) if used(rows, name)
    ]
    text = tables.columns(rows, names)
    if reason := incomparable([each for each in results if each.state == "finished"]):
        text += f"\n\n{reason}"
    if not sys.stdout.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return "\n".join(line[:width] for line in text.splitlines())


def used(rows: Sequence[dict[str, object]], name: str) -> bool:
    """Whether a column says anything: a value, and for n more than 1."""
    values = {row.get(name, "") for row in rows} - {""}
    return bool(values - {1}) if name == "n" else bool(values)


def setting_cells(setting: Setting, keys: Sequence[str], best: Sequence[Path]) -> dict[str, object]:
    """The cells of a setting, as in ``31.20 ± 0.12``; ``best`` are the folders to be marked."""
    cells: dict[str, object] = {key: setting.options.get(key, "") for key in keys}
    if len(setting.results) == 1:
        cells |= {key: setting.results[0].options.get(key, "") for key in keys}
    cells[""] = BEST_MARK if any(each.folder in best for each in setting.results) else ""
    cells |= {"state": "finished", "data": setting.results[0].data, "n": len(setting.results)}
    return cells | {column: spread(setting, score) for score, column in SHOWN.items()}


def spread(setting: Setting, score: str, sign: str = " ± ") -> str:
    """Mean and standard deviation of a score; the mean alone for one job."""
    mean, deviation = setting.mean(score), setting.deviation(score)
    if mean is None:
        return ""
    text = decimals(mean, 2)
    digits = 2
    if score == "latents/active_units":  # whole numbers before they are averaged
        text, digits = f"{mean:.1f}".removesuffix(".0"), 1
    return text if deviation is None else f"{text}{sign}{decimals(deviation, digits)}"


def job_cells(result: Result, keys: Sequence[str]) -> dict[str, object]:
    """The cells of a job that is not finished; one that was pruned has scores too."""
    scores = {
        SHOWN[name]: decimals(result.scores[name], 2) for name in SHOWN if name in result.scores
    }
    options = {key: result.options.get(key, "") for key in keys}
    return {**options, "state": result.state, **scores}


def markdown(groups: Sequence[Setting]) -> str:
    """A table for a page or an issue."""
    header, rows = paper_cells(groups, " ± ")
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def latex(groups: Sequence[Setting]) -> str:
    """A table for a paper, with the lines of the package booktabs."""
    header, rows = paper_cells(groups, r" $\pm$ ")
    lines = [" & ".join(escape(cell) for cell in line) + r" \\" for line in (header, *rows)]
    alignment = "l" * (len(header) - len(SCORES_OF_PAPER)) + "r" * len(SCORES_OF_PAPER)
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{alignment}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def paper_cells(groups: Sequence[Setting], sign: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows: what differs, n, and the scores of the test images."""
    keys = differing([group.options for group in groups])
    header = [*keys, "n", *(SHOWN[score] for score in SCORES_OF_PAPER)]
    rows = [
        [
            *(group.options.get(key, "") for key in keys),
            str(len(group.results)),
            *(spread(group, score, sign) for score in SCORES_OF_PAPER),
        ]
        for group in groups
    ]
    return header, rows


def escape(text: str) -> str:
    """A text with the characters escaped that LaTeX would interpret, except the signs of spread."""
    for sign in "_%&#":
        text = text.replace(sign, f"\\{sign}")
    return text


def write_papers(groups: Sequence[Setting], folder: Path) -> list[Path]:
    """Writes table.md and table.tex; returns their paths."""
    contents = {folder / "table.md": markdown(groups), folder / "table.tex": latex(groups)}
    for path, text in contents.items():
        write_text(path, text)
    return list(contents)
