"""Show where the time of one optimizer step goes: ``python -m benchmarks.step``.

It prints microseconds per step of the default model, 784-400-20, with batches of 128 images, and
without Lightning: the batch is taken from the images, then come noise, forward pass, gradient, Adam
and totals. The time of a whole step is measured without a profiler. The times of its kinds of
operations are measured with PyTorch's profiler, which slows them down a little.
"""

import argparse
import contextlib
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple
from unittest import mock

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import report
from vae_lightning.compile import graphs, onednn
from vae_lightning.compile.step import CompiledStep
from vae_lightning.config.compose import compose
from vae_lightning.data.batches import Batch, Batches
from vae_lightning.training.assembly import build_data, build_module
from vae_lightning.training.module import VAE
from vae_lightning.training.trainer import silence_notices

BATCH_SIZE = 128
STEPS, ROUNDS = 200, 5
KINDS = {
    # matmul_ is the kernel of vae_lightning.compile.brgemm in a graph
    "matrix products": ("addmm", "aten::mm", "mm_out", "matmul_"),
    "Adam": ("fused_adam", "sqrt"),  # nothing else in a compiled step takes a square root
}
OPERATIONS = ("aten::", "graph_")  # prefixes of PyTorch's operations and of the compiled ones


class Variant(NamedTuple):
    """One way to take an optimizer step."""

    name: str
    uses_onednn: bool = True  # false: float32 matrix products use PyTorch's default, MKL
    is_compiled: bool = True
    precision: str = "32"
    uses_kernel: bool = True  # false: compiled matrix products call oneDNN as a whole


VARIANTS = (
    Variant("plain step, PyTorch's own products", uses_onednn=False, is_compiled=False),
    Variant("plain step", is_compiled=False),
    Variant("compiled step, whole products of oneDNN", uses_kernel=False),
    Variant("compiled step"),
    Variant("compiled step, bf16-mixed", precision="bf16-mixed"),
)


def multiplications(module: VAE, batch: int) -> float:
    """Returns the GFLOP of the matrix products of one step.

    Each weight costs 2 FLOP per image in the forward pass, in the gradient of the weights and in
    the gradient of the inputs. The first layer has no gradient of its inputs.
    """
    weights = [
        layer.weight.numel() for layer in module.modules() if isinstance(layer, torch.nn.Linear)
    ]
    return 2 * batch * (3 * sum(weights) - weights[0]) / 1e9


def kinds(work: Callable[[], None]) -> Counter[str]:
    """Returns microseconds per step for each kind of operation."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(STEPS):
            work()
    found: Counter[str] = Counter()
    for event in profiler.key_averages():
        kind = next(
            (kind for kind, names in KINDS.items() if any(name in event.key for name in names)),
            "other",
        )
        if kind != "other" or event.key.startswith(OPERATIONS):
            found[kind] += event.self_cpu_time_total / STEPS
    return found


def wall(work: Callable[[], None]) -> float:
    """Returns microseconds per step, the median over several rounds."""
    rounds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(STEPS):
            work()
        rounds.append((time.perf_counter() - started) / STEPS * 1e6)
    return statistics.median(rounds)


def endless(batches: Batches) -> Iterator[Batch]:
    """Yields the batches of an epoch again and again."""
    while True:
        yield from batches.batches(batches.order(0), 0, 0, batches.count)


def measure(variant: Variant) -> tuple[float, Counter[str], float]:
    """Returns the time of a step, the times of its kinds of operations, and its GFLOP."""
    cfg = compose("config", ["model.latent_dim=20", "data.val_size=0"])
    cfg.trust = True
    data, module = build_data(cfg), build_module(cfg).train()
    optimizer = module.make_optimizer(module.parameters())
    take = CompiledStep(module, BATCH_SIZE) if variant.is_compiled else module.take_step
    batches = endless(Batches(data.images["train"], BATCH_SIZE, 0, 1, data.shuffled))

    def work() -> None:
        take(next(batches), optimizer, 0)

    is_half = variant.precision == "bf16-mixed"
    with contextlib.ExitStack() as stack:
        if variant.uses_onednn:
            stack.enter_context(onednn.products())
        if not variant.uses_kernel:
            stack.enter_context(mock.patch.object(graphs, "product_kernel", dict))
        half = torch.autocast("cpu", torch.bfloat16, cache_enabled=False, enabled=is_half)
        stack.enter_context(half)
        warm_up(work)
        whole = wall(work)
        if variant.is_compiled:  # compile again, so that the profiler sees the operations inside
            with mock.patch.dict(graphs.INDUCTOR, {"cpp.enable_kernel_profile": True}):
                take = CompiledStep(module, BATCH_SIZE)
                warm_up(work)
        return whole, kinds(work), multiplications(module, BATCH_SIZE)


def warm_up(work: Callable[[], None]) -> None:
    """Takes some steps that are not measured."""
    for _ in range(20):
        work()


def main() -> None:
    """Measures all variants and prints the table."""
    description, _, details = __doc__.partition("\n\n")
    argparse.ArgumentParser(
        prog="python -m benchmarks.step", description=description, epilog=details
    ).parse_args()
    silence_notices()
    rows = []
    for variant in VARIANTS:
        whole, parts, work = measure(variant)
        products = parts["matrix products"]
        rest = whole - sum(parts.values())
        values = (whole, products, work / (products * 1e-6), parts["Adam"], parts["other"], rest)
        rows.append((variant.name, *(f"{value:.0f}" for value in values)))
    header = (
        "",
        "µs per step",
        "matrix products",
        "GFLOP/s in them",
        "Adam",
        "other operations",
        "difference",
    )
    print(report.table(header, rows))


if __name__ == "__main__":
    main()
