"""Attack runs in every known way; count what they withstand: ``python -m benchmarks.faults``."""

import argparse
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks import images, report
from benchmarks.faults import refused, stops
from benchmarks.fork_server import ForkServer


def stopped(runs: stops.Runs, kills: int) -> Iterator[tuple[str, str, str]]:
    """Yields the kind, a description and what is wrong of every stop."""
    numbers = (*stops.SIGNALS, signal.SIGKILL)
    for attack in (*stops.attacks(numbers), *stops.one_step_attacks((signal.SIGTERM, 9))):
        (fault,) = attack.faults
        name = "SIGKILL" if fault.number == signal.SIGKILL else "signal"
        yield f"{name}, {attack.phase}", str(fault), runs.stop(attack)
    generator = random.Random(0)
    for attack in stops.limited_attacks(generator, kills):
        yield f"several signals, {attack.phase}", str(attack), runs.stop(attack)
    for _ in range(kills):
        yield "several signals at random moments", "", runs.kill_at_random(generator, 3)


def main() -> None:
    """Prints a table: kind of attack, tried, withstood."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument(
        "--kills", type=int, default=50, help="runs that are killed at random moments"
    )
    parser.add_argument(
        "--part",
        choices=("all", "stops", "refused"),
        default="all",
        help="stops and kills of runs, or what must be refused (default: all)",
    )
    args = parser.parse_args()
    tried: Counter[str] = Counter()
    held: Counter[str] = Counter()
    if args.part != "refused":
        stop_runs(args.kills, tried, held)
    if args.part != "stops":
        found = refused.attacks()
        tried.update(found.tried)
        held.update(found.held)
    rows = [(kind, str(tried[kind]), str(held[kind])) for kind in tried]
    rows.append(("all", str(tried.total()), str(held.total())))
    print(report.table(("kind of attack", "tried", "withstood"), rows))


def stop_runs(kills: int, tried: Counter[str], held: Counter[str]) -> None:
    """Stops and kills runs at every kind of moment, and counts."""
    with tempfile.TemporaryDirectory() as folder, ForkServer() as server:
        data = Path(folder, "data")
        images.write(data, 600, 130)
        runs = stops.Runs(server, data, Path(folder))
        for kind, name, wrong in stopped(runs, kills):
            tried[kind] += 1
            held[kind] += not wrong
            if wrong:
                print(f"{kind}: {name}: {wrong}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
