"""Where the time of an optimiser step goes: ``python -m benchmarks.step``. The default model, 784-400-20, batch 128.

Microseconds of a step outside Lightning (the batch from the images, noise, forward, gradient, Adam, the totals): by the
wall clock without a profiler, and the part of each kind of operation by PyTorch's profiler, which slows them a little.
"""

import contextlib
import statistics
import time
from collections import Counter
from collections.abc import Callable
from unittest import mock

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import report
from vae_lightning import cli, compiled, graphs, matmul, onednn, trainers
from vae_lightning.data import Batches
from vae_lightning.module import VAE

STEPS, ROUNDS = 200, 5
KINDS = {
    "matrix products": ("addmm", "aten::mm", "mm_out", "matmul_"),  # the last is ours, in a graph
    "Adam": ("fused_adam", "sqrt"),  # nothing else in a compiled step takes a root
}
OPERATIONS = ("aten::", "graph_")  # how PyTorch names its own, and those that it has compiled


def multiplications(module: VAE, batch: int) -> float:
    """GFLOP of a step's matrix products: 2 for each weight and image, thrice, but no gradient of the first's input."""
    weights = [layer.weight.numel() for layer in module.modules() if isinstance(layer, torch.nn.Linear)]
    return 2 * batch * (3 * sum(weights) - weights[0]) / 1e9


def kinds(work: Callable[[], None]) -> Counter[str]:
    """Microseconds of a step by kind of operation."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(STEPS):
            work()
    found: Counter[str] = Counter()
    for event in profiler.key_averages():
        kind = next((kind for kind, names in KINDS.items() if any(name in event.key for name in names)), "other")
        if kind != "other" or event.key.startswith(OPERATIONS):
            found[kind] += event.self_cpu_time_total / STEPS
    return found


def wall(work: Callable[[], None]) -> float:
    """Microseconds of a step: the median of some rounds."""
    rounds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(STEPS):
            work()
        rounds.append((time.perf_counter() - started) / STEPS * 1e6)
    return statistics.median(rounds)


def steps(fast: bool, graph: bool, precision: str = "32", kernel: bool = True) -> tuple[float, Counter[str], float]:
    """Wall time and kinds of one way to take a step, and its GFLOP."""
    cfg = cli.compose("config", ["model.latent_dim=20", "data.val_size=0"])
    cfg.trust = True
    data, module = trainers.build_data(cfg), trainers.build_module(cfg).train()
    module.start()
    optimizer = module.make_optimizer(module.parameters())
    take = compiled.CompiledStep(module, 128) if graph else module.optimize
    batches = Batches(data.images["train"], 128, 0, 1, data.shuffled)
    order = data.shuffled(0)

    def work() -> None:
        take(batches.batch(order, 0, 0), optimizer)

    half = torch.autocast("cpu", torch.bfloat16, cache_enabled=False, enabled=precision == "bf16-mixed")
    products = onednn.products() if fast else contextlib.nullcontext()
    with products, half, contextlib.nullcontext() if kernel else mock.patch.object(matmul, "decompositions", dict):
        warm(work)
        whole = wall(work)
        if graph:  # once more, so that the operations in it are seen
            with mock.patch.dict(graphs.INDUCTOR, {"cpp.enable_kernel_profile": True}):
                take = compiled.CompiledStep(module, 128)
                warm(work)
        return whole, kinds(work), multiplications(module, 128)


def warm(work: Callable[[], None]) -> None:
    """Some steps that are not counted."""
    for _ in range(20):
        work()


def main() -> None:
    """Prints the table."""
    trainers.quiet()
    rows = []
    for name, *choice in (
        ("plain step, PyTorch's own products", False, False),
        ("plain step", True, False),
        ("compiled step, whole products of oneDNN", True, True, "32", False),
        ("compiled step", True, True),
        ("compiled step, bf16-mixed", True, True, "bf16-mixed"),
    ):
        whole, parts, work = steps(*choice)
        products = parts["matrix products"]
        rest = whole - sum(parts.values())
        values = (whole, products, work / (products * 1e-6), parts["Adam"], parts["other"], rest)
        rows.append((name, *(f"{value:.0f}" for value in values)))
    header = ("", "us per step", "matrix products", "GFLOP/s in them", "Adam", "other operations", "between them")
    print(report.table(header, rows))


if __name__ == "__main__":
    main()
