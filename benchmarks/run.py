"""Measure: ``python -m benchmarks.run [speed] [sizes] [whole] [evaluate] [scaling]``."""

import argparse
import os
import shlex
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks import images, report, scaling, whole
from benchmarks.measure import interleaved, ratio
from benchmarks.workload import CONTENDERS, HAND, OURS, PLAIN, SIZES, Contender, Workload, sized

RESULTS = Path(__file__).parent / "results"
# what our seconds per epoch are meant to be of theirs; those of bfloat16, of ours
TARGETS = {"hand": "<= 1.00", "jax": "<= 1.00", "examples": "<= 0.20", "pythae": "<= 0.40", "bf16": ">= 1 / 0.75"}
SIZE_TARGET = 1.05
GROWTH = (*scaling.SIZES, "images", "processes")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *MEASUREMENTS], help="default: all; with --quick, speed")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, epochs and sizes; speed in 3 minutes")
    parser.add_argument("--rounds", type=int, help="how often all take their turn (default 5, quick 1)")
    parser.add_argument("--epochs", type=int, help="epochs of a run, the first is not counted (default 6, quick 3)")
    parser.add_argument("--against", nargs="+", choices=CONTENDERS, default=[*CONTENDERS], help="of speed")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=[*SIZES], help="of sizes")
    parser.add_argument("--growth", nargs="+", choices=GROWTH, default=[*GROWTH], help="of scaling")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of tables and charts")
    args = parser.parse_args()
    args.rounds = args.rounds or (1 if args.quick else 5)
    args.epochs = args.epochs or (3 if args.quick else 6)
    return args


def main() -> None:
    """Measures what was asked for."""
    args = arguments()
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        known = Path(os.environ.get("VAE_LIGHTNING_DATA", "data")).resolve()
        root = known if (known / "MNIST" / "raw").is_dir() else images.write(Path(folder), 60_000)
        workload = Workload(root, epochs=args.epochs)
        for name in args.names or (["speed"] if args.quick else MEASUREMENTS):
            MEASUREMENTS[name](args, workload)


def write(args: argparse.Namespace, name: str, title: str, about: str, body: str, chart: bool = True) -> None:
    """The page, in the folder and on the terminal."""
    command = shlex.join(["python", "-m", "benchmarks.run", *sys.argv[1:]])
    text = report.page(title, command, f"{about}\n\n![chart]({name}.png)" if chart else about, body)
    (args.output / f"{name}.md").write_text(text)
    print(text)


def speed(args: argparse.Namespace, workload: Workload) -> None:
    """Our command, by the compiled and by the plain step, against the contenders."""
    groups: dict[Workload, list[Contender]] = {workload: [OURS, PLAIN]}
    for contender in (CONTENDERS[name] for name in args.against):
        if contender.missing():
            print(f"left out: {contender.name} needs {', '.join(contender.missing())} (pip install -e '.[bench]')")
        else:
            groups.setdefault(replace(workload, **contender.changes), [OURS, PLAIN]).append(contender)
    timings = [interleaved(contenders, work, args.rounds) for work, contenders in groups.items()]
    targets = {CONTENDERS[name].name: target for name, target in TARGETS.items()}
    report.bars(args.output / "speed.png", {n: report.seconds(v) for n, v in timings[0].items()}, "s per epoch")
    about = (
        "The mlp 784-400-20, summed squared error + KL, batch 128, Adam, float32, 60,000 training images, no test pass."
        " Ours is the command with all its defaults (pictures, logging, checkpoints, progress bar): with the compiled"
        " step, which the default takes in runs of 6,000 steps and more (in these, which are shorter, by"
        " trainer.compile=true), and with the plain one. The last rows are of 50,000 images, grey cross-entropy and a"
        " test pass over 10,000 after each epoch, ours too. Seconds per epoch: from the end of one epoch to that of the"
        " next on the wall clock, first epoch left out, median of a run, then of"
        f" {args.rounds} runs, which took turns. A ratio is the median of the rounds' ratios. pythae's loss has half"
        " the squared error."
    )
    write(args, "speed", "Speed of training", about, report.speed(timings, targets))


def sizes(args: argparse.Namespace, workload: Workload) -> None:
    """Other sizes against the hand-written loop."""
    rows, ratios = [], {}
    for name, other in sized(workload, args.sizes).items():
        other = replace(other, epochs=min(other.epochs, args.epochs))
        timings = interleaved([OURS, PLAIN, HAND], other, min(args.rounds, 3))
        found = [ratio(timings[mine.name], timings[HAND.name]) for mine in (OURS, PLAIN)]
        ratios |= {name: found[0], f"{name}, plain step": found[1]}
        seconds = [f"{report.seconds(timings[contender.name]):.2f}" for contender in (OURS, PLAIN, HAND)]
        rows.append((name, *seconds, *(f"{value:.2f}" for value in found), f"<= {SIZE_TARGET}"))
    report.bars(args.output / "sizes.png", {"hand-written": 1.0} | ratios, "seconds per epoch, ours / hand-written")
    about = "As in [speed](speed.md), with one size changed: ours against the hand-written loop of the same model."
    header = (
        "",
        "ours, s per epoch",
        "plain step",
        "hand-written",
        "ours / hand-written",
        "plain / hand-written",
        "target",
    )
    write(args, "sizes", "Speed in other sizes", about, report.table(header, rows))


def commands(args: argparse.Namespace, workload: Workload) -> None:
    """Whole commands: what a user waits for, and the memory that it takes."""
    rounds = min(args.rounds, 3)
    about = (
        f"Whole commands, wall clock, median of {rounds} that took turns; memory is the most that the process held."
        " `ours, as it is` finds its graph in PyTorch's cache, as a second run with the same model does."
    )
    write(args, "whole", "Whole commands", about, whole.report_of(workload, rounds, args.quick), chart=False)


def evaluation(args: argparse.Namespace, workload: Workload) -> None:
    """Importance sampling of the whole test set."""
    about = (
        "`evaluate` of Burda's network (784-200-200-50) on all 10,000 test images, beside the matrix products alone of"
        " its decoder for as many samples; the target is 1.5 times these, in less than 2 GiB."
    )
    table = whole.evaluation(workload, 500 if args.quick else 5_000)
    write(args, "evaluate", "Speed of evaluate", about, table, chart=False)


def growth(args: argparse.Namespace, _: Workload) -> None:
    """How our cost grows."""
    found = scaling.growth(args.growth, args.quick)
    report.curves(args.output / "scaling.png", found)
    rows = [
        (name, ", ".join(f"{size:,}: {seconds:.2f}" for size, seconds in points.items()), f"{slope(points):.2f}")
        for name, points in found.items()
    ]
    about = (
        "Our command, by the plain step, with one size changed; the others: 784-400-20, batch 128,"
        f" {scaling.IMAGES:,} images made by benchmarks/images.py, one process. The files of `images` are mapped into"
        " memory and read as they are needed; ten million are one epoch, with start-up. The exponent is the slope of a"
        " least-squares line on logarithmic axes: seconds per epoch grow like size to it."
    )
    write(args, "scaling", "How cost grows", about, report.table(("", "size: s per epoch", "exponent"), rows))


def slope(points: dict[float, float]) -> float:
    """The fitted exponent."""
    return report.exponent(list(points), list(points.values()))


MEASUREMENTS = {"speed": speed, "sizes": sizes, "whole": commands, "evaluate": evaluation, "scaling": growth}

if __name__ == "__main__":
    main()
