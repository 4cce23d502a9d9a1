"""Measure the speed of training: ``python -m benchmarks.run [NAME ...]``.

Each measurement writes a table, and most also a chart, to benchmarks/results.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks import images, report, scaling, whole
from benchmarks.measure import interleaved, ratio
from benchmarks.workload import CONTENDERS, HAND, OURS, PLAIN, SIZES, Contender, Workload, sized

RESULTS = Path(__file__).parent / "results"
# targets of our seconds per epoch divided by theirs; for bf16, of ours divided by ours with bf16
TARGETS = {
    "hand": "<= 1.00",
    "jax": "<= 1.00",
    "examples": "<= 0.20",
    "pythae": "<= 0.40",
    "bf16": ">= 1 / 0.75",
}
SIZE_TARGET = 1.05
GROWTH = (*scaling.SIZES, "images", "processes")


def arguments() -> argparse.Namespace:
    """Parses the command line."""
    description, _, details = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run", description=description, epilog=details
    )
    known = ", ".join(MEASUREMENTS)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{known} (default: all; with --quick, speed)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer rounds, epochs and sizes; speed in 3 minutes"
    )
    parser.add_argument("--rounds", type=int, help="rounds of all contenders (default 5, quick 1)")
    parser.add_argument(
        "--epochs",
        type=int,
        help="epochs per run, of which the first is not counted (default 6, quick 3)",
    )
    for option, measurement, choices in (
        ("--against", "speed", CONTENDERS),
        ("--sizes", "sizes", SIZES),
        ("--growth", "scaling", GROWTH),
    ):
        text = f"of {measurement} (default: all)"
        parser.add_argument(option, nargs="+", choices=choices, default=[*choices], help=text)
    parser.add_argument(
        "--batch-size", type=int, default=128, help="of speed (default %(default)s)"
    )
    parser.add_argument(
        "--images",
        type=int,
        help="train on this number of artificial images (default: on MNIST, if it is there)",
    )
    parser.add_argument(
        "--busy-cores",
        type=int,
        default=0,
        help="cores that another program uses meanwhile (default %(default)s)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=RESULTS,
        help="folder for tables and charts (default benchmarks/results)",
    )
    args = parser.parse_args()
    for name in args.names:
        if name not in MEASUREMENTS:
            parser.error(f"{name}: must be one of {known}")
    args.rounds = args.rounds or (1 if args.quick else 5)
    args.epochs = args.epochs or (3 if args.quick else 6)
    return args


def main() -> None:
    """Runs the chosen measurements."""
    args = arguments()
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        known = Path(os.environ.get("VAE_LIGHTNING_DATA", "data")).resolve()
        is_known = args.images is None and (known / "MNIST" / "raw").is_dir()
        args.images = args.images or 60_000
        root = known if is_known else images.write(Path(folder), args.images)
        workload = Workload(root, batch_size=args.batch_size, epochs=args.epochs)
        with busy(args.busy_cores):
            for name in args.names or (["speed"] if args.quick else MEASUREMENTS):
                MEASUREMENTS[name](args, workload)


@contextmanager
def busy(cores: int) -> Iterator[None]:
    """Within the context, other processes use this number of cores."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(cores)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def write(
    args: argparse.Namespace, name: str, title: str, about: str, body: str, chart: bool = True
) -> None:
    """Writes a results page to the output folder and prints it."""
    command = shlex.join(["python", "-m", "benchmarks.run", *sys.argv[1:]])
    text = report.page(title, command, f"{about}\n\n![chart]({name}.png)" if chart else about, body)
    (args.output / f"{name}.md").write_text(text)
    print(text)


def speed(args: argparse.Namespace, workload: Workload) -> None:
    """Compares our command, with the compiled and the plain step, with the contenders."""
    groups: dict[Workload, list[Contender]] = {workload: [OURS, PLAIN]}
    for contender in (CONTENDERS[name] for name in args.against):
        if contender.missing():
            missing = ", ".join(contender.missing())
            print(f"left out: {contender.name} requires {missing} (pip install -e '.[bench]')")
        else:
            groups.setdefault(replace(workload, **contender.changes), [OURS, PLAIN]).append(
                contender
            )
    timings = [interleaved(contenders, work, args.rounds) for work, contenders in groups.items()]
    targets = {CONTENDERS[name].name: target for name, target in TARGETS.items()}
    report.bars(
        args.output / "speed.png",
        {n: report.seconds(v) for n, v in timings[0].items()},
        "s per epoch",
    )
    load = f" Other programs use {args.busy_cores} of the cores." if args.busy_cores else ""
    about = (
        f"The mlp 784-400-20, summed squared error + KL, batches of {args.batch_size} images, Adam,"
        f" float32, {args.images:,} training images, no test pass.{load} Ours is the command with"
        " all its defaults: pictures, logging, checkpoints and the progress bar. It is measured"
        " with the plain step and with the compiled step. The compiled step is the default in runs"
        " of 6,000 steps or more; these runs are shorter and set trainer.compile=true. In the last"
        " rows, all contenders train on 50,000 images with gray cross-entropy and test on 10,000"
        " images after each epoch. Seconds per epoch are wall-clock seconds from the end of one"
        " epoch to the end of the next, without the first epoch: the median of each run, then the"
        f" median of {args.rounds} interleaved runs. A ratio is the median of the ratios of the"
        " rounds. The loss of pythae contains half the squared error."
    )
    write(args, "speed", "Speed of training", about, report.speed(timings, targets))


def sizes(args: argparse.Namespace, workload: Workload) -> None:
    """Compares our command with the hand-written loop in other sizes."""
    rows, ratios = [], {}
    for name, other in sized(workload, args.sizes).items():
        other = replace(other, epochs=min(other.epochs, args.epochs))
        timings = interleaved([OURS, PLAIN, HAND], other, min(args.rounds, 3))
        found = [ratio(timings[mine.name], timings[HAND.name]) for mine in (OURS, PLAIN)]
        ratios |= {name: found[0], f"{name}, plain step": found[1]}
        seconds = [
            f"{report.seconds(timings[contender.name]):.2f}" for contender in (OURS, PLAIN, HAND)
        ]
        rows.append((name, *seconds, *(f"{value:.2f}" for value in found), f"<= {SIZE_TARGET}"))
    report.bars(
        args.output / "sizes.png",
        {"hand-written": 1.0} | ratios,
        "seconds per epoch, ours / hand-written",
    )
    about = (
        "As in [speed](speed.md), with one size changed: ours compared with the hand-written loop"
        " of the same model."
    )
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
    """Measures the duration and the peak memory of whole commands."""
    rounds = min(args.rounds, 3)
    about = (
        f"Wall-clock time of whole commands, the median of {rounds} interleaved runs, and peak"
        " memory of the process. `ours, as it is` finds its compiled graph in PyTorch's cache, like"
        " every run after the first one with the same model."
    )
    write(
        args,
        "whole",
        "Whole commands",
        about,
        whole.report_of(workload, rounds, args.quick),
        chart=False,
    )


def evaluation(args: argparse.Namespace, workload: Workload) -> None:
    """Measures importance sampling on the whole test set."""
    about = (
        "`evaluate` with the network of Burda et al. (784-200-200-50) on all 10,000 test images,"
        " compared with the matrix products of its decoder alone, for as many samples. The"
        " target is 1.5 times their duration, in less than 2 GiB of memory."
    )
    table = whole.evaluation(workload, 500 if args.quick else 5_000)
    write(args, "evaluate", "Speed of evaluate", about, table, chart=False)


def growth(args: argparse.Namespace, _: Workload) -> None:
    """Measures how our seconds per epoch grow with each size."""
    found = scaling.growth(args.growth, args.quick)
    report.curves(args.output / "scaling.png", found)
    rows = [
        (
            name,
            ", ".join(f"{size:,}: {seconds:.2f}" for size, seconds in points.items()),
            f"{slope(points):.2f}",
        )
        for name, points in found.items()
    ]
    about = (
        "Our command, with the plain step and one size changed. The other sizes are 784-400-20,"
        f" batches of 128, {scaling.IMAGES:,} images from benchmarks/images.py, one process. For"
        " `images`, the files are mapped into memory and read on demand; ten million images are"
        " measured with one epoch, including start-up. The exponent b is the slope of a"
        " least-squares line on logarithmic axes: seconds per epoch grow like size^b."
    )
    write(
        args,
        "scaling",
        "How cost grows",
        about,
        report.table(("", "size: s per epoch", "exponent"), rows),
    )


def slope(points: dict[float, float]) -> float:
    """Returns the fitted exponent of a quantity."""
    return report.exponent(list(points), list(points.values()))


MEASUREMENTS = {
    "speed": speed,
    "sizes": sizes,
    "whole": commands,
    "evaluate": evaluation,
    "scaling": growth,
}

if __name__ == "__main__":
    main()
