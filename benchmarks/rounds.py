"""Compare the speed of two revisions: ``python -m benchmarks.rounds --revision REV``.

A git revision (old) and a copy of the current files (new) train on MNIST in turn, so that other
load on the machine affects both. The program prints the ratio new / old of the seconds per epoch,
with the plain and with the compiled step, and of the seconds of two short commands.
VAE_LIGHTNING_DATA names the folder with MNIST.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import machine, report
from benchmarks.checkout import BEFORE_LAYOUT, Checkouts, checkouts, environment
from benchmarks.measure import interleaved, ratio
from benchmarks.workload import Contender, Workload, ours

STEPS = {"plain step": "trainer.compile=false", "compiled step": "trainer.compile=true"}
# short command -> its arguments and its exit code
COMMANDS = {
    "`train --help`": (("--help",), 0),
    "a refusal, `train model=mlpp`": (("model=mlpp",), 2),
}


def contenders(versions: Checkouts, args: argparse.Namespace) -> dict[str, list[Contender]]:
    """Returns the old and the new command for each kind of step."""
    overrides = {"old": [*args.overrides, *args.old_overrides], "new": args.overrides}
    return {
        step: [
            ours(f"{side}, {step}", choice, *overrides[side], checkout=checkout)
            for side, checkout in versions._asdict().items()
        ]
        for step, choice in STEPS.items()
    }


def training(versions: Checkouts, args: argparse.Namespace) -> list[tuple[str, ...]]:
    """Returns a row for each kind of step: seconds per epoch of old and new, and their ratio."""
    pairs = contenders(versions, args)
    sides = [side for pair in pairs.values() for side in pair]
    timings = interleaved(sides, args.workload, args.rounds)
    rows = []
    for step, pair in pairs.items():
        before, after = (timings[side.name] for side in pair)
        seconds = (f"{report.seconds(before):.3f}", f"{report.seconds(after):.3f}")
        rows.append((f"{step}, s per epoch", *seconds, f"{ratio(after, before):.3f}"))
    return rows


def seconds_of(checkout: Path, arguments: Sequence[str], expected: int) -> float:
    """Returns the wall-clock seconds of ``train``; RuntimeError for another exit code."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "vae_lightning.train", *arguments],
        cwd=checkout,
        env=environment(checkout),
        capture_output=True,
        text=True,
    )
    taken = time.perf_counter() - started
    if done.returncode != expected:
        raise RuntimeError(f"train {arguments}: exit code {done.returncode}\n{done.stderr}")
    return taken


def commands(versions: Checkouts, rounds: int) -> list[tuple[str, ...]]:
    """Returns a row for each short command: seconds of old and new, and their ratio."""
    rows = []
    for name, (arguments, expected) in COMMANDS.items():
        pairs = [
            [seconds_of(checkout, arguments, expected) for checkout in versions]
            for _ in range(rounds)
        ]
        before, after = (statistics.median(side) for side in zip(*pairs, strict=True))
        middle = statistics.median(new / old for old, new in pairs)
        rows.append((f"{name}, s", f"{before:.3f}", f"{after:.3f}", f"{middle:.3f}"))
    return rows


def arguments() -> argparse.Namespace:
    """Parses the command line."""
    description, _, details = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rounds", description=description, epilog=details
    )
    parser.add_argument(
        "--revision",
        default=BEFORE_LAYOUT,
        help="git revision to compare with (default %(default)s)",
    )
    parser.add_argument("--rounds", type=int, default=10, help="default %(default)s")
    parser.add_argument(
        "--epochs",
        type=int,
        default=3,
        help="epochs per run, of which the first is not counted (default %(default)s)",
    )
    parser.add_argument("--batch-size", type=int, default=128, help="default %(default)s")
    parser.add_argument(
        "--overrides",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="further overrides of both commands",
    )
    parser.add_argument(
        "--old-overrides",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="further overrides of the old command; with --revision HEAD they measure an option",
    )
    args = parser.parse_args()
    root = Path(os.environ.get("VAE_LIGHTNING_DATA", "data")).resolve()
    if not (root / "MNIST" / "raw").is_dir():
        parser.error(f"VAE_LIGHTNING_DATA={root}: must contain MNIST/raw")
    args.workload = Workload(root, batch_size=args.batch_size, epochs=args.epochs)
    return args


def main() -> None:
    """Measures and prints the table."""
    args = arguments()
    with checkouts(args.revision) as versions:
        rows = [*training(versions, args), *commands(versions, args.rounds)]
    print(f"\n{machine.describe()}\n")
    print(report.table(("", f"old ({args.revision})", "new", "new / old"), rows))


if __name__ == "__main__":
    main()
