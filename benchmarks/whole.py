"""Measures whole commands: training, start-up, memory, the speedrun and a full evaluation.

Every public function returns a Markdown table.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from benchmarks import images, report
from benchmarks.measure import Timing, interleaved, megabytes
from benchmarks.workload import CONTENDERS, PLAIN, Command, Contender, Workload, ours

EPOCHS = 20  # the default of trainer.max_epochs
IMPORTS = "import torch, lightning"


def fresh(workload: Workload, folder: Path) -> list[str]:
    """Returns our command with an empty cache of compiled graphs."""
    return [
        "env",
        f"TORCHINDUCTOR_CACHE_DIR={folder / 'cache'}",
        *ours("").command(workload, folder),
    ]


def python(code: str) -> Command:
    """Returns a command that runs one line of Python and then prints an epoch line."""
    return lambda *_: [
        sys.executable,
        "-c",
        f"{code}; print('epoch 1/1   train -elbo 0', flush=True)",
    ]


def run(*arguments: str) -> tuple[float, float]:
    """Returns wall-clock seconds and peak MB of a Python command; RuntimeError if it fails."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"{arguments}: exit code {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - started, megabytes(usage)


def median(values: Sequence[Timing], name: str) -> float:
    """Returns the median of an attribute over the rounds."""
    return statistics.median(getattr(timing, name) for timing in values)


def training(workload: Workload, rounds: int) -> str:
    """Compares the default command with others of the same number of epochs."""
    chosen = [
        CONTENDERS[name] for name in ("hand", "jax", "pythae") if not CONTENDERS[name].missing()
    ]
    mine = [ours("ours, as it is"), Contender("ours, nothing compiled before", fresh), PLAIN]
    timings = interleaved([*mine, *chosen], workload, rounds)
    header = ("", f"s, {workload.epochs} epochs", "MB", "last train -ELBO")
    rows = [
        (name, f"{median(values, 'whole'):.1f}", memory_of(values), f"{values[-1].loss:.2f}")
        for name, values in timings.items()
    ]
    return report.table(header, rows)


def start(workload: Workload, rounds: int) -> str:
    """Compares start-up time and memory of our command with those of the imports alone."""
    alone = Contender(IMPORTS, python(IMPORTS))
    root = str(workload.root)
    holding = f"{IMPORTS}; from benchmarks.contenders import common; x = common.pixels({root!r})"
    with tempfile.TemporaryDirectory() as folder:
        few = Workload(images.write(Path(folder) / "few", 128), epochs=1)  # one step
        found = interleaved([alone, ours("ours, to the end of the first step")], few, rounds)
    found |= interleaved(
        [Contender(f"{IMPORTS} and the images", python(holding))],
        replace(workload, epochs=1),
        rounds,
    )
    rows = [
        (
            name,
            f"{median(values, 'whole' if name.startswith(IMPORTS) else 'first'):.2f}",
            memory_of(values),
        )
        for name, values in found.items()
    ]
    for flags in (("--help",), ("--cfg", "job")):
        taken = [run("-m", "vae_lightning.train", *flags) for _ in range(rounds)]
        rows.append(
            (
                f"`train {' '.join(flags)}`",
                f"{statistics.median(seconds for seconds, _ in taken):.2f}",
                "",
            )
        )
    return report.table(("", "s", "MB"), rows)


def memory_of(values: Sequence[Timing]) -> str:
    """Returns the median peak memory as it is shown in a table."""
    return f"{median(values, 'memory'):.0f}"


def speedrun(workload: Workload, seeds: Sequence[int]) -> str:
    """Measures the seconds of ``experiment=speedrun`` and the test -ELBO that it reaches."""
    rows = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            choices = (
                f"data.root={workload.root}",
                f"seed={seed}",
                f"hydra.run.dir={folder}/run",
                "accelerator=cpu",
            )
            seconds, _ = run("-m", "vae_lightning.train", "experiment=speedrun", *choices)
            metrics = json.loads((Path(folder) / "run" / "metrics.json").read_text())
            reached = metrics["test/neg_elbo"]
        rows.append(
            (f"speedrun, seed {seed}", f"{seconds:.1f}", "<= 20", f"{reached:.2f}", "< 105.6")
        )
    return report.table(("", "s", "target", "test -ELBO", "target"), rows)


def products(samples: int, by: Callable[[], AbstractContextManager[None]]) -> float:
    """Returns the seconds of the matrix products of the decoder of Burda et al.

    The decoder has the widths 50-200-200-784; the samples are drawn for each of 10,000 images.
    """
    import torch

    from vae_lightning.evaluation.likelihood import DECODED_AT_ONCE

    weights = [
        torch.randn(inputs, outputs) for inputs, outputs in ((50, 200), (200, 200), (200, 784))
    ]
    z, calls = torch.randn(DECODED_AT_ONCE, 50), 10_000 * samples // DECODED_AT_ONCE
    outputs = [torch.empty(DECODED_AT_ONCE, weight.shape[1]) for weight in weights]
    with torch.no_grad(), by():
        started = time.perf_counter()
        for _ in range(calls):
            x = z
            for weight, output in zip(weights, outputs, strict=True):
                x = torch.mm(x, weight, out=output)
        return time.perf_counter() - started


def evaluation(workload: Workload, samples: int) -> str:
    """Compares ``evaluate`` on the test images with only the matrix products of the decoder.

    The network is that of ``experiment=burda_vae``.
    """
    from vae_lightning.compile import onednn

    with tempfile.TemporaryDirectory() as folder:
        choices = (f"data.root={workload.root}", f"hydra.run.dir={folder}/run", "accelerator=cpu")
        run("-m", "vae_lightning.train", "experiment=burda_vae", "trainer.max_epochs=1", *choices)
        few, _ = run("-m", "vae_lightning.evaluate", f"run={folder}/run", "samples=1")
        seconds, memory = run(
            "-m", "vae_lightning.evaluate", f"run={folder}/run", f"samples={samples}"
        )
    alone = [products(samples, by) for by in (contextlib.nullcontext, onednn.products)]

    def row(name: str, value: float, held: str = "") -> tuple[str, ...]:
        return (name, f"{value:.0f}", *(f"{value / least:.2f}" for least in alone), held)

    rows = [
        row(f"`evaluate samples={samples}`", seconds, f"{memory:.0f}"),
        row("its log p(x): the difference to `samples=1`", seconds - few),
        row("matrix products of the decoder, PyTorch's own (MKL)", alone[0]),
        row("matrix products of the decoder, oneDNN", alone[1]),
    ]
    return report.table(("", "s", "/ products by MKL", "/ by oneDNN", "MB"), rows)


def report_of(workload: Workload, rounds: int, quick: bool) -> str:
    """Returns all tables except that of ``evaluation``."""
    tables = [
        training(replace(workload, epochs=3 if quick else EPOCHS), rounds),
        start(workload, rounds),
        speedrun(workload, (0,) if quick else (0, 1, 2)),
    ]
    return "\n\n".join(tables)
