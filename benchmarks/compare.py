"""Compare the metrics of two revisions bit for bit: ``python -m benchmarks.compare``.

Each case trains a small model for one epoch on the digits of scikit-learn, with the code of a git
revision and with a copy of the current files. The two tables metrics.csv must be identical, except
for the columns that are measured with a clock. The exit code is 1 if a case differs.
"""

import argparse
import csv
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import yaml

from benchmarks import report
from benchmarks.checkout import BEFORE_LAYOUT, Checkouts, checkouts, environment
from vae_lightning.config.compose import TRAINING_GROUPS
from vae_lightning.storage.run_folder import CLOCK_COLUMNS

TIME_LIMIT = 600  # seconds per training, in case a process waits forever
# the last line of a traceback; with several processes, Lightning adds the rank
EXCEPTION = re.compile(r"(\[rank\d+\]: )?[\w.]*(Error|Exception|Interrupted)\b")
# overrides of every case; a case may override them
BASE = ("data=digits", "accelerator=cpu", "trainer.compile=false", "trainer.max_epochs=1")
# current name of an option -> its name in revisions that do not have the current name
RENAMED = {"likelihood.gray": "likelihood.grey"}
# the groups of conf/ of which every option is compared
GROUPS = (*TRAINING_GROUPS, "callbacks", "experiment")
# further overrides that an option requires, or that make it quick or visible within 12 steps
COMPANIONS: Mapping[str, tuple[str, ...]] = {
    "model=conv": ("model.widths=[4,8]",),
    "model=resnet": ("model.widths=[4,8]", "model.blocks=1"),
    "likelihood=bernoulli": ("data.binarization=threshold",),
    "prior=mixture": ("prior.components=5",),
    "prior=vamp": ("prior.pseudo_inputs=5",),
    "annealing=linear": ("annealing.steps=10",),
    "annealing=sigmoid": ("annealing.steps=10",),
    "annealing=cyclical": ("annealing.steps=5", "annealing.cycles=2"),
    "callbacks=ppca": (
        "model=linear",
        "likelihood.mean_activation=identity",
        "posterior.shared_std=true",
    ),
}
HAS_NO_HIDDEN_DIMS = ("model=linear", "experiment=ppca")
BERNOULLI = "likelihood=bernoulli"
# cases beyond one option of one group; the overrides are also the name of the case
COMBINATIONS: Sequence[tuple[str, ...]] = (
    *((BERNOULLI, f"data.binarization={name}") for name in ("dynamic", "fixed")),
    (BERNOULLI, "likelihood.gray=true"),
    (BERNOULLI, "likelihood.data_bias=true", "data.binarization=dynamic"),
    ("data.binarization=threshold",),
    *(("likelihood=gaussian", f"likelihood.std={std}") for std in ("0.5", "optimal", "per_pixel")),
    *(
        ("likelihood=laplace", f"likelihood.scale={scale}")
        for scale in ("0.5", "optimal", "per_pixel")
    ),
    *(
        ("likelihood=discretized_logistic", f"likelihood.scale={scale}")
        for scale in ("0.1", "per_pixel")
    ),
    ("likelihood.mean_activation=identity",),
    ("posterior.shared_std=true",),
    *(("objective=iwae", f"objective.gradient={name}") for name in ("stl", "dreg")),
    ("objective=iwae", "posterior=flow", "prior=flow"),
    ("objective=tc", "posterior=full_normal"),
    ("objective=capacity", "annealing=linear", "annealing.steps=10"),
    ("objective.num_samples=3",),
    ("prior=vamp", "prior.pseudo_inputs=5", "posterior=full_normal"),
    ("model.conditional=true",),
    ("model.conditional=true", "model=conv", "model.widths=[4,8]"),
    ("model.conditional=true", "posterior=flow", BERNOULLI, "data.binarization=dynamic"),
    ("model.activation=silu", "model.latent_dim=2"),
    ("scheduler=cosine", "scheduler.warmup_steps=4"),
    ("optimizer=adamw", "optimizer.weight_decay=0.1"),
    ("data.val_size=0",),
    ("seed=7",),
    ("trainer.steps_per_execution=1",),
    ("trainer.precision=bf16-mixed",),
    ("trainer.compile=true",),
    ("accelerator=ddp_cpu", "trainer.devices=2"),
    ("accelerator=ddp_cpu", "trainer.devices=2", BERNOULLI, "data.binarization=dynamic"),
)


class Case(NamedTuple):
    """One comparison: a training, which may be resumed afterwards."""

    overrides: tuple[str, ...]
    resumed_with: tuple[str, ...] = ()  # overrides of a second command, which resumes the run

    @property
    def name(self) -> str:
        """What distinguishes the case."""
        again = ("then resume", *self.resumed_with) if self.resumed_with else ()
        return " ".join([*self.overrides, *again]) or "the defaults"


class Outcome(NamedTuple):
    """The rows of metrics.csv, or the reason why there are none."""

    rows: list[dict[str, str]]
    error: str = ""


class Difference(NamedTuple):
    """The first value that differs; a value is empty if one side does not have it."""

    column: str
    epoch: str
    old: str
    new: str


def cases(conf: Path) -> list[Case]:
    """Returns all cases: the defaults of a conf/ folder, every other option, the combinations."""
    chosen = {}
    for group in yaml.safe_load((conf / "config.yaml").read_text())["defaults"]:
        chosen |= group if isinstance(group, dict) else {}
    options = [
        f"{group}={path.stem}"
        for group in GROUPS
        for path in sorted((conf / group).glob("*.yaml"))
        if path.stem != chosen[group]
    ]
    single = [Case(()), *(Case((option, *COMPANIONS.get(option, ()))) for option in options)]
    resumed = Case(("trainer.max_epochs=2",), ("trainer.max_epochs=4",))
    return [*single, *map(Case, COMBINATIONS), resumed]


def with_defaults(overrides: tuple[str, ...]) -> list[str]:
    """Returns the overrides of a case after those that all cases share."""
    small = [] if set(HAS_NO_HIDDEN_DIMS) & set(overrides) else ["model.hidden_dims=[32]"]
    given = {override.partition("=")[0] for override in overrides}
    base = [override for override in BASE if override.partition("=")[0] not in given]
    return [*base, *small, *overrides]


def renamed(override: str, conf: Path) -> str:
    """Returns an override with the names of the options that a conf/ folder has."""
    key, _, value = override.partition("=")
    old = RENAMED.get(key)
    return f"{old}={value}" if old and has_option(conf, old) else override


def has_option(conf: Path, key: str) -> bool:
    """Returns whether an option GROUP.NAME exists in a conf/ folder."""
    group, _, name = key.partition(".")
    pattern = re.compile(rf"^{re.escape(name)}:", re.MULTILINE)
    return any(pattern.search(path.read_text()) for path in (conf / group).glob("*.yaml"))


def first_difference(
    old: Sequence[Mapping[str, str]], new: Sequence[Mapping[str, str]]
) -> Difference | None:
    """Returns the first difference between two tables, in the order of rows and then of columns.

    The values are compared as text. Python writes a float so that it can be read back exactly, so
    equal text means equal bits. The columns of ``CLOCK_COLUMNS`` are ignored.
    """
    for number in range(max(len(old), len(new))):
        before = old[number] if number < len(old) else {}
        after = new[number] if number < len(new) else {}
        for column in dict.fromkeys([*before, *after]):
            values = before.get(column, ""), after.get(column, "")
            if column not in CLOCK_COLUMNS and values[0] != values[1]:
                return Difference(column, str(number + 1), *values)
    return None


def verdict(old: Outcome, new: Outcome) -> str:
    """Returns ``equal``, the first difference, or the errors of the trainings that failed."""
    errors = [f"{side}: {run.error}" for side, run in (("old", old), ("new", new)) if run.error]
    if errors:
        return "; ".join(errors)
    found = first_difference(old.rows, new.rows)
    if found is None:
        return "equal" if old.rows else "no rows"
    values = f"old {found.old or 'none'}, new {found.new or 'none'}"
    return f"{found.column}, epoch {found.epoch}: {values}"


def train(checkout: Path, case: Case, folder: Path) -> Outcome:
    """Trains a case with the code of a checkout, inside an empty folder."""
    folder.mkdir(parents=True)
    run = folder / "run"
    words = [renamed(word, checkout / "conf") for word in with_defaults(case.overrides)]
    commands = [[*words, f"hydra.run.dir={run}"]]
    if case.resumed_with:
        commands.append([f"resume={run}", *case.resumed_with])
    for command in commands:
        error = execute(checkout, command, folder)
        if error:
            return Outcome([], error)
    with (run / "metrics.csv").open(newline="") as file:
        return Outcome(list(csv.DictReader(file)))


def execute(checkout: Path, overrides: Iterable[str], folder: Path) -> str:
    """Runs ``train`` with one thread; returns "", or if it fails the exit code and the error."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "vae_lightning.train", *overrides],
            cwd=folder,
            env=environment(checkout, OMP_NUM_THREADS="1"),
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
        )
    except subprocess.TimeoutExpired:
        return f"not finished after {TIME_LIMIT} seconds"
    if not done.returncode:
        return ""
    return f"exit code {done.returncode}: {error_line(done.stderr)}"


def error_line(text: str) -> str:
    """Returns the line of the first exception in an output, or else the last line.

    If one process of several fails, the others fail later, because they lose the connection.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [""]
    return next((line for line in lines if EXCEPTION.match(line)), lines[-1])


def compare(versions: Checkouts, chosen: Sequence[Case]) -> list[tuple[str, str, str]]:
    """Trains every case with both versions at the same time; returns (name, rows, verdict)."""
    results = []
    for case in chosen:
        with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(2) as pool:
            folder = Path(temporary)
            sides = [
                pool.submit(train, checkout, case, folder / side)
                for side, checkout in versions._asdict().items()
            ]
            before, after = (side.result() for side in sides)
        results.append((case.name, str(len(before.rows)), verdict(before, after)))
        print(f"{case.name}: {results[-1][-1]}", file=sys.stderr, flush=True)
    return results


def summary(revision: str, results: Sequence[tuple[str, str, str]]) -> str:
    """Returns the Markdown page; its last line is "N of M equal"."""
    equal = sum(result == "equal" for *_, result in results)
    rows = [(f"`{name}`", count, result.replace("|", "\\|")) for name, count, result in results]
    table = report.table(("case", "rows compared", "result"), rows)
    title = f"# The current files compared with {revision}"
    return f"{title}\n\n{table}\n\n{equal} of {len(results)} equal\n"


def arguments() -> argparse.Namespace:
    """Parses the command line."""
    description, _, details = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description=description, epilog=details
    )
    parser.add_argument(
        "--revision",
        default=BEFORE_LAYOUT,
        help="git revision to compare with (default %(default)s)",
    )
    parser.add_argument("--output", type=Path, help="Markdown file for the table")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="only the cases whose overrides contain TEXT"
    )
    return parser.parse_args()


def main() -> None:
    """Compares, prints the table, and exits with code 1 if a case differs."""
    args = arguments()
    with checkouts(args.revision) as versions:
        chosen = [case for case in cases(versions.new / "conf") if args.only in case.name]
        results = compare(versions, chosen)
    page = summary(args.revision, results)
    print(page)
    if args.output:
        args.output.write_text(page)
    sys.exit(any(result != "equal" for *_, result in results))


if __name__ == "__main__":
    main()
