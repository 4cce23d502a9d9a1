"""Whole commands: training from start to end, start-up, memory, the speedrun, a full evaluation; tables in Markdown."""

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

EPOCHS = 20  # of a default run
IMPORTS = "import torch, lightning"


def fresh(workload: Workload, folder: Path) -> list[str]:
    """Our command as it is, where nothing was compiled before."""
    return ["env", f"TORCHINDUCTOR_CACHE_DIR={folder / 'cache'}", *ours("").command(workload, folder)]


def python(code: str) -> Command:
    """A program of one line, which says that it is done as an epoch does."""
    return lambda *_: [sys.executable, "-c", f"{code}; print('epoch 1/1   train -elbo 0', flush=True)"]


def run(*arguments: str) -> tuple[float, float]:
    """Wall seconds and MB at most of a Python command; RuntimeError if it fails."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"{arguments}: exit code {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - started, megabytes(usage)


def median(values: Sequence[Timing], name: str) -> float:
    """Of the rounds."""
    return statistics.median(getattr(timing, name) for timing in values)


def training(workload: Workload, rounds: int) -> str:
    """The default command from start to end, and others with as many epochs."""
    chosen = [CONTENDERS[name] for name in ("hand", "jax", "pythae") if not CONTENDERS[name].missing()]
    mine = [ours("ours, as it is"), Contender("ours, nothing compiled before", fresh), PLAIN]
    timings = interleaved([*mine, *chosen], workload, rounds)
    header = ("", f"s, {workload.epochs} epochs", "MB", "last train -ELBO")
    rows = [
        (name, f"{median(values, 'whole'):.1f}", memory_of(values), f"{values[-1].loss:.2f}")
        for name, values in timings.items()
    ]
    return report.table(header, rows)


def start(workload: Workload, rounds: int) -> str:
    """Seconds from a command to what it does first, and memory, beside what the imports alone take."""
    alone = Contender(IMPORTS, python(IMPORTS))
    holding = f"{IMPORTS}; from benchmarks.contenders import common; x = common.pixels({str(workload.root)!r})"
    with tempfile.TemporaryDirectory() as folder:
        few = Workload(images.write(Path(folder) / "few", 128), epochs=1)  # one step, one epoch
        found = interleaved([alone, ours("ours, to the end of the first step")], few, rounds)
    found |= interleaved([Contender(f"{IMPORTS} and the images", python(holding))], replace(workload, epochs=1), rounds)
    rows = [
        (name, f"{median(values, 'whole' if name.startswith(IMPORTS) else 'first'):.2f}", memory_of(values))
        for name, values in found.items()
    ]
    for flags in (("--help",), ("--cfg", "job")):
        taken = [run("-m", "vae_lightning.train", *flags) for _ in range(rounds)]
        rows.append((f"`train {' '.join(flags)}`", f"{statistics.median(seconds for seconds, _ in taken):.2f}", ""))
    return report.table(("", "s", "MB"), rows)


def memory_of(values: Sequence[Timing]) -> str:
    """As a table has it."""
    return f"{median(values, 'memory'):.0f}"


def speedrun(workload: Workload, seeds: Sequence[int]) -> str:
    """``experiment=speedrun``: seconds from the command to its end, and the test -ELBO that it reached."""
    rows = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            choices = (f"data.root={workload.root}", f"seed={seed}", f"hydra.run.dir={folder}/run", "accelerator=cpu")
            seconds, _ = run("-m", "vae_lightning.train", "experiment=speedrun", *choices)
            reached = json.loads((Path(folder) / "run" / "metrics.json").read_text())["test/neg_elbo"]
        rows.append((f"speedrun, seed {seed}", f"{seconds:.1f}", "<= 20", f"{reached:.2f}", "< 105.6"))
    return report.table(("", "s", "target", "test -ELBO", "target"), rows)


def products(samples: int, by: Callable[[], AbstractContextManager[None]]) -> float:
    """Seconds of the matrix products of Burda's decoder for that many samples of each of 10,000 images, and no more."""
    import torch

    from vae_lightning import evaluation

    weights = [torch.randn(inputs, outputs) for inputs, outputs in ((50, 200), (200, 200), (200, 784))]
    rows = evaluation.ROWS
    z, calls = torch.randn(rows, 50), 10_000 * samples // rows
    outputs = [torch.empty(rows, weight.shape[1]) for weight in weights]
    with torch.no_grad(), by():
        started = time.perf_counter()
        for _ in range(calls):
            x = z
            for weight, output in zip(weights, outputs, strict=True):
                x = torch.mm(x, weight, out=output)
        return time.perf_counter() - started


def evaluation(workload: Workload, samples: int) -> str:
    """``evaluate`` on the test images with Burda's network, beside the matrix products of its decoder."""
    from vae_lightning import onednn

    with tempfile.TemporaryDirectory() as folder:
        choices = (f"data.root={workload.root}", f"hydra.run.dir={folder}/run", "accelerator=cpu")
        run("-m", "vae_lightning.train", "experiment=burda_vae", "trainer.max_epochs=1", *choices)
        few, _ = run("-m", "vae_lightning.evaluate", f"run={folder}/run", "samples=1")
        seconds, memory = run("-m", "vae_lightning.evaluate", f"run={folder}/run", f"samples={samples}")
    alone = [products(samples, by) for by in (contextlib.nullcontext, onednn.products)]

    def row(name: str, value: float, held: str = "") -> tuple[str, ...]:
        return (name, f"{value:.0f}", *(f"{value / least:.2f}" for least in alone), held)

    rows = [
        row(f"`evaluate samples={samples}`", seconds, f"{memory:.0f}"),
        row("of that log p(x): less what `samples=1` takes", seconds - few),
        row("products of the decoder, PyTorch's own (MKL)", alone[0]),
        row("products of the decoder, oneDNN", alone[1]),
    ]
    return report.table(("", "s", "/ products by MKL", "/ by oneDNN", "MB"), rows)


def report_of(workload: Workload, rounds: int, quick: bool) -> str:
    """All tables but that of ``evaluate``."""
    tables = [
        training(replace(workload, epochs=3 if quick else EPOCHS), rounds),
        start(workload, rounds),
        speedrun(workload, (0,) if quick else (0, 1, 2)),
    ]
    return "\n\n".join(tables)
