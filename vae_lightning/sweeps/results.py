"""The results of the jobs of sweeps and of single runs, read from their folders.

Jobs that differ only in ``seed`` are one setting; its values are means over its finished jobs.
"""

import os
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from vae_lightning.checks.errors import ConfigError, escaped
from vae_lightning.runs.stored import CONFIG, OVERRIDES
from vae_lightning.runs.untrusted import read_overrides
from vae_lightning.storage.files import read_csv, read_json, write_csv
from vae_lightning.sweeps.plan import SWEEP, read_plan

SCORES = (
    "val/recon",
    "val/kl",
    "val/neg_elbo",
    "test/recon",
    "test/kl",
    "test/neg_elbo",
    "latents/active_units",
)
RANKED_BY = ("val/neg_elbo", "train/neg_elbo")  # lower is better; the first one that all jobs have
UNCOMPARED = (
    "hydra.",
    "hydra/",
    "data.root",
    "trust",
    "from_config",
    "accelerator",
    "launcher",
    "sweep.",
)
# densities of the same pixels, whose -ELBO can be compared; the first words of their descriptions
DENSITIES = ("gaussian", "laplace", "continuous bernoulli")
BEST = "best"  # link in a sweep folder


class Result(NamedTuple):
    """What the folder of a job says."""

    folder: Path
    options: dict[str, str]  # the overrides, key -> value
    state: str
    data: str  # the data set that was used
    scores: dict[str, float]
    reason: str = ""
    metrics: tuple[str, ...] = ()  # what the search minimizes that drew the job
    kind: str = ""  # what its -ELBO bounds; those of different kinds cannot be compared


class Setting(NamedTuple):
    """The finished jobs that differ only in their seed."""

    options: dict[str, str]  # without the seed
    results: list[Result]

    def values(self, score: str) -> list[float]:
        """A score of all jobs that have it."""
        return [each.scores[score] for each in self.results if score in each.scores]

    def mean(self, score: str) -> float | None:
        """The mean of a score over the seeds."""
        values = self.values(score)
        return statistics.fmean(values) if values else None

    def deviation(self, score: str) -> float | None:
        """The standard deviation over the seeds, with n - 1; None for fewer than two."""
        values = self.values(score)
        return statistics.stdev(values) if len(values) > 1 else None


def collect(folders: Iterable[Path]) -> list[Result]:
    """The results of sweeps and runs: finished jobs, pruned ones, others; the best ones first.

    Raises ConfigError for a folder that is neither a sweep nor a run.
    """
    found: list[Result] = []
    for folder in folders:
        if (folder / SWEEP).is_file():
            plan = read_plan(folder, "sweep")
            metrics = tuple(plan.search.metrics) if plan.search else ()
            found += [read_result(folder / job.name, job.overrides, metrics) for job in plan.jobs]
        elif (folder / CONFIG).is_file():
            found.append(read_result(folder))
        else:
            raise ConfigError(f"{folder}: must be the folder of a sweep or of a run")
    score = ranked_by(found)
    order = {"finished": 0, "pruned": 1}
    return sorted(found, key=lambda each: (order.get(each.state, 2), rank(each.scores, score)))


def rank(scores: Mapping[str, float], score: str | None) -> float:
    """What results are sorted by; without the score, the last."""
    return scores.get(score or "", float("inf"))


def ranked_by(results: Sequence[Result]) -> str | None:
    """The score by which results are sorted: the first one that all finished jobs have.

    The results of one search are sorted by what it minimizes. It is None if the -ELBO of the jobs
    cannot be compared.
    """
    done = [each for each in results if each.state == "finished"]
    if incomparable(done):
        return None
    searched = {each.metrics for each in results}
    names = (*(searched.pop() if len(searched) == 1 else ()), *RANKED_BY)
    return next((s for s in names if done and all(s in each.scores for each in done)), None)


def incomparable(results: Sequence[Result]) -> str:
    """Why the -ELBO of finished results cannot be compared; empty if it can."""
    if len({each.data for each in results}) > 1:
        return "no best job: the -ELBO of different data cannot be compared"
    if len({each.kind for each in results}) > 1:
        return (
            "no best job: the -ELBO of different likelihoods cannot be compared; compare the nll of"
            " evaluate for densities of the same images"
        )
    return ""


def best_of(results: Sequence[Result]) -> list[Result]:
    """The best finished results: the first one or, with several metrics, the Pareto front.

    Of a result in the front, no other one is better in one metric and as good in all others.
    """
    done = [each for each in results if each.state == "finished"]
    names = results[0].metrics if results else ()
    if len(names) < 2 or not all(set(names) <= each.scores.keys() for each in done):
        return done[:1] if ranked_by(results) else []
    if incomparable(done):
        return []
    points = [tuple(each.scores[name] for name in names) for each in done]
    return [
        each
        for each, point in zip(done, points, strict=True)
        if not any(
            other != point and all(a <= b for a, b in zip(other, point, strict=True))
            for other in points
        )
    ]


def read_result(
    folder: Path, overrides: Sequence[str] | None = None, metrics: tuple[str, ...] = ()
) -> Result:
    """The result of a job; ``overrides`` are those that its folder records unless given."""
    try:
        if overrides is None:
            overrides = read_overrides((folder / OVERRIDES).read_text(encoding="utf-8"))
        final, status = read_json(folder / "metrics.json"), read_json(folder / "status.json")
        state = str(status.get("state", "not started"))
        if state == "pruned":
            final = best_epoch(read_csv(folder / "metrics.csv"))
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        return Result(folder, {}, "damaged", "", {}, escaped(str(error)))
    names = {*SCORES, *RANKED_BY, *metrics}
    scores = {
        name: float(value)
        for name, value in final.items()
        if name in names and isinstance(value, int | float)
    }
    return Result(
        folder,
        compared_options(overrides),
        state,
        data_of(folder, final),
        scores if state in ("finished", "pruned") else {},
        str(status.get("reason", "")),
        metrics,
        kind_of(final),
    )


def kind_of(metrics: Mapping[str, object]) -> str:
    """What the -ELBO of a run bounds: a density, or the kind of likelihood; and its constant."""
    likelihood = str(metrics.get("likelihood", "")).partition(",")[0]
    constant = metrics.get("log_normalizer", 0.0)
    is_density = likelihood.startswith(DENSITIES) and not constant
    return "density" if is_density else f"{likelihood}, {constant}"


def best_epoch(rows: Sequence[Mapping[str, str]]) -> dict[str, object]:
    """The terms of the epoch of best.ckpt; a run that was pruned has no metrics.json."""
    values = [
        {name: float(text) for name, text in row.items() if name.startswith(("val/", "train/"))}
        for row in rows
    ]
    name = "val/neg_elbo"
    if not values:
        return {}
    return dict(min(values, key=lambda row: row[name]) if name in values[0] else values[-1])


def compared_options(overrides: Iterable[str]) -> dict[str, str]:
    """Key -> value of the overrides that can change a result."""
    pairs = [word.lstrip("+~").partition("=") for word in overrides]
    return {key: value for key, _, value in pairs if not key.startswith(UNCOMPARED)}


def data_of(folder: Path, metrics: Mapping[str, object]) -> str:
    """The data set that a job used, with a remark if it is not the one that was asked for."""
    config = folder / CONFIG
    text = config.read_text(errors="replace") if config.is_file() else ""
    other = re.search(r"^  instead_of: (\w+)$", text, re.MULTILINE)
    name = str(metrics.get("data", ""))
    return f"{name} (not {other.group(1)})" if other and name else name


def settings(results: Iterable[Result]) -> list[Setting]:
    """The finished results by setting, in the order of the mean of the ranking score."""
    groups: dict[tuple[object, ...], Setting] = {}
    for each in results:
        options = {key: value for key, value in each.options.items() if key != "seed"}
        key = (each.data, *sorted(options.items()))
        if each.state == "finished":
            groups.setdefault(key, Setting(options, [])).results.append(each)
    found = list(groups.values())
    score = ranked_by([result for setting in found for result in setting.results])

    def mean(setting: Setting) -> float:
        value = setting.mean(score) if score else None
        return float("inf") if value is None else value

    return sorted(found, key=mean)


def differing(options: Sequence[Mapping[str, str]]) -> list[str]:
    """The keys in which some of the options differ, in their order."""
    keys = dict.fromkeys(key for each in options for key in each)
    return [key for key in keys if len({each.get(key) for each in options}) > 1]


def labels(options: Sequence[Mapping[str, str]]) -> list[str]:
    """A short name for each of some jobs or settings: the values in which they differ."""
    keys = differing(options)
    short = {key: key.rpartition(".")[2] for key in keys}
    return [", ".join(f"{short[key]}={each.get(key, '')}" for key in keys) for each in options]


def job_row(result: Result) -> dict[str, object]:
    """A row of sweep.csv."""
    return {
        **result.options,
        "state": result.state,
        "data": result.data,
        **{score: result.scores.get(score, "") for score in (*SCORES, *result.metrics)},
        "folder": result.folder.name,
        **({"reason": result.reason} if result.reason else {}),
    }


def setting_row(setting: Setting) -> dict[str, object]:
    """A row of summary.csv: n, and mean and standard deviation of each score."""
    row: dict[str, object] = {**setting.options, "data": setting.results[0].data}
    row["n"] = len(setting.results)
    for score in SCORES:
        for name, value in (("mean", setting.mean(score)), ("std", setting.deviation(score))):
            row[f"{score} {name}"] = "" if value is None else value
    return row


def write_tables(results: Sequence[Result], folder: Path) -> None:
    """Writes sweep.csv and summary.csv."""
    write_csv(folder / "sweep.csv", [job_row(each) for each in results])
    write_csv(folder / "summary.csv", [setting_row(each) for each in settings(results)])


def link_best(results: Sequence[Result], folder: Path) -> None:
    """Makes the link ``best`` lead to the job with the lowest score; without one, removes it."""
    link, score = folder / BEST, ranked_by(results)
    if score is None or results[0].state != "finished":
        link.unlink(missing_ok=True)
        return
    temporary = folder / f".{BEST}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(results[0].folder.name)
    os.replace(temporary, link)
