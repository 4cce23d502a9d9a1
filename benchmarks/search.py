"""Does pruning save epochs, and does a search survive kills? ``python -m benchmarks.search``.

``pruning`` trains a grid of small models, and runs searches with and without median pruning for
several seeds; their jobs repeat the learning curves of the grid, one after the other, so that the
result depends on no clock. ``kills`` runs one search as a command and kills its driver again and
again.
"""

import argparse
import json
import math
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig

from vae_lightning.data.images import ImageData
from vae_lightning.networks import UNCONDITIONAL
from vae_lightning.storage.files import read_csv, write_csv, write_json
from vae_lightning.storage.run_folder import STOP
from vae_lightning.sweeps.display import Display
from vae_lightning.sweeps.driver import Driver
from vae_lightning.sweeps.job import Task
from vae_lightning.sweeps.launchers.slots import Need, Slots
from vae_lightning.sweeps.plan import Job, Plan, read_plan, read_typed
from vae_lightning.sweeps.results import collect
from vae_lightning.sweeps.search import Search
from vae_lightning.sweeps.work import Work
from vae_lightning.training.assembly import build_data, build_module
from vae_lightning.training.module import VAE
from vae_lightning.training.signals import StopSignals

SPACE = ["model.latent_dim=range(2,8)", "optimizer.lr=tag(log,interval(1e-3,1e-1))"]
LATENT_DIMS, RATES = range(2, 8), [10 ** (-3 + 2 * place / 19) for place in range(20)]
MODEL = ["data=digits", "model.hidden_dims=[16]", "callbacks=none", "trainer.threads=1"]
TRIALS, MORE, EPOCHS, BATCH = 30, 10, 12, 128


Curve = list[dict[str, float]]  # the terms of the validation images after each epoch
Point = tuple[int, float]  # latent dimensions, learning rate


class Ended:
    """A job that runs in this process: it has ended when it was started."""

    reason = ""

    def exit_code(self) -> int:
        """It never fails."""
        return 0

    def ask_to_stop(self) -> None:
        """It has ended."""

    kill = close = ask_to_stop


class Replay:
    """A launcher whose jobs repeat the learning curve of the nearest point that was trained."""

    def __init__(self, curves: Mapping[Point, Curve]) -> None:
        self.curves, self.epochs = curves, 0
        self.search: Search | None = None
        self.works: dict[Path, Work] = {}

    def start(self, task: Task, _: Need) -> Ended:
        """Asks the search after each epoch; ends after the last one or with the stop file."""
        work = self.works[task.folder]
        curve = self.curves[nearest(work.job, self.curves)]
        for epoch in range(1, EPOCHS + 1):
            self.epochs += 1
            write_csv(task.folder / "metrics.csv", curve[:epoch])
            assert self.search
            self.search.seen.clear()  # two epochs may fall into one tick of the clock
            self.search.watch([work])
            if (task.folder / STOP).is_file():
                write_json(task.folder / "status.json", {"state": "pruned"})
                return Ended()
        best = min(row["val/neg_elbo"] for row in curve)
        write_json(task.folder / "metrics.json", {"val/neg_elbo": best, "data": "digits"})
        write_json(task.folder / "status.json", {"state": "finished"})
        return Ended()

    def wait(self, running: Sequence[Ended], seconds: float) -> None:
        """All have ended."""

    def keeps(self, number: int) -> bool:
        """No job is left."""
        return False


def nearest(job: Job, points: Iterable[Point]) -> Point:
    """The trained point with the latent dimensions of a job and the nearest learning rate."""
    latent_dim, rate = (float(word.partition("=")[2]) for word in job.swept)
    same = [point for point in points if point[0] == latent_dim]
    return min(same, key=lambda point: abs(math.log(point[1] / rate)))


def trained_curves() -> dict[Point, Curve]:
    """The learning curves of all points of a grid."""
    cfg = read_typed([*MODEL, *SPACE, "search=tpe"], None)[2]
    data = build_data(cfg)
    return {
        (latent_dim, rate): learning_curve(cfg, data, latent_dim, rate)
        for latent_dim in LATENT_DIMS
        for rate in RATES
    }


def learning_curve(cfg: DictConfig, data: ImageData, latent_dim: int, rate: float) -> Curve:
    """Trains a model, in a plain loop."""
    cfg.model.latent_dim, cfg.optimizer.lr = latent_dim, rate
    module = build_module(cfg)
    module.start_from(data)
    optimizer = module.make_optimizer(module.parameters())
    generator = torch.Generator().manual_seed(0)
    images, curve = data.images["train"].float() / 255, []
    for epoch in range(1, EPOCHS + 1):
        for places in torch.randperm(len(images), generator=generator).split(BATCH):
            noise = torch.randn(1, len(places), latent_dim, generator=generator)
            optimizer.zero_grad()
            module.objective(module(images[places], noise, UNCONDITIONAL), 0).mean().backward()
            optimizer.step()
        curve.append({"epoch": epoch, **terms(module, data), "seconds": 0.0})
    return curve


@torch.no_grad()
def terms(module: VAE, data: ImageData) -> dict[str, float]:
    """The terms of the validation images, with the same noise in all epochs."""
    images = data.images["val"].float() / 255
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, len(images), module.latent_dim, generator=generator)
    found = module(images, noise, UNCONDITIONAL)
    recon, kl = float(found.recon.mean()), float(found.kl.mean())
    return {"val/recon": recon, "val/kl": kl, "val/neg_elbo": recon + kl}


def run_search(place: Path, curves: Mapping[Point, Curve], trials: int) -> tuple[float, int, int]:
    """Runs or continues the search of a folder: the best value, epochs trained, trials."""
    plan = read_plan(place, "place")
    assert plan.search
    plan = plan._replace(search=plan.search._replace(trials=trials))
    launcher = Replay(curves)

    def make(job: Job, _: Plan) -> Work:
        folder = place / job.name
        folder.mkdir(exist_ok=True)
        task = Task(folder, job.overrides, b"", place / "log", place / "lock", replaced=False)
        launcher.works[folder] = Work(job, task, Need(1, 1, gpu=False), EPOCHS)
        return launcher.works[folder]

    display = Silent([])
    launcher.search = search = Search(plan, place, None, make, display, EPOCHS)
    slots = Slots([Need(1, 1, gpu=False)], 1, [], 1, 1)
    Driver(search, slots, launcher, display, stops_on_error=True).run(StopSignals())
    return search.study.best_value, launcher.epochs, len(search.trials())


class Silent(Display):
    """Prints nothing."""

    def say(self, text: str) -> None:
        """Says nothing."""


def pruning(seeds: int) -> None:
    """Compares searches with and without pruning, and extends them after a restart."""
    torch.set_num_threads(1)
    found: dict[str, list[tuple[float, int]]] = {"none": [], "median": []}
    curves = trained_curves()
    print("| seed | pruner | best -ELBO | epochs | best after 10 more | trials |")
    print("|---|---|---|---|---|---|")
    for seed in range(seeds):
        for pruner, values in found.items():
            with tempfile.TemporaryDirectory() as name:
                words = ["search=tpe", f"search.pruner={pruner}", f"search.seed={seed}", *SPACE]
                read_typed([*MODEL, *words], None)[0].write(Path(name))
                best, epochs, _ = run_search(Path(name), curves, TRIALS)
                values.append((best, epochs))
                more, _, trials = run_search(Path(name), curves, TRIALS + MORE)
            cells = (seed, pruner, f"{best:.3f}", epochs, f"{more:.3f}", trials)
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
    best = {name: statistics.median(value for value, _ in each) for name, each in found.items()}
    epochs = {name: sum(count for _, count in each) for name, each in found.items()}
    share = epochs["median"] / epochs["none"]
    print(f"median best: {best['none']:.3f} without pruning, {best['median']:.3f} with pruning")
    print(f"epochs with pruning: {share:.0%} of those without")


def kills(number: int) -> None:
    """Kills the driver of a search at random moments, and counts what each job has trained."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name, "sweep")
        options = ["search=tpe", f"search.trials={number}", "search.pruner=median", *SPACE]
        words = [*MODEL, f"trainer.max_epochs={EPOCHS}", *options, f"hydra.sweep.dir={place}"]
        command = [sys.executable, "-m", "vae_lightning.train", "-m", *words]
        generator = random.Random(0)
        for kill in range(number):
            wanted = trained(place) + generator.randint(1, EPOCHS - 2)
            with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
                while trained(place) < wanted and process.poll() is None:
                    time.sleep(0.05)
                time.sleep(generator.uniform(0, 0.5))
                process.kill()
            print(
                f"kill {kill + 1}: exit code {process.returncode}, {trained(place)} epochs",
                flush=True,
            )
            if process.returncode != -signal.SIGKILL:
                break
        done = subprocess.run([*command], capture_output=True, text=True)
        print(done.stdout, done.stderr, f"exit code {done.returncode}")
        logs = [path.read_text() for path in place.glob("logs/*.log")]
        states = [each.state for each in collect([place])]
        twice = sum(
            log.count(f"epoch {epoch:>3}/") > 1 for log in logs for epoch in range(1, EPOCHS + 1)
        )
        study = [json.loads(line) for line in (place / "study.log").read_text().splitlines()]
        drawn = sum(line["op_code"] == 4 for line in study)  # CREATE_TRIAL
        print(f"{drawn} trials, {len(logs)} jobs, {twice} epochs trained twice: {sorted(states)}")


def trained(place: Path) -> int:
    """The epochs of all jobs of a search."""
    return sum(len(read_csv(path)) for path in place.glob("*/metrics.csv"))


def main() -> None:
    """Prints the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    parser.add_argument("part", choices=("pruning", "kills"))
    parser.add_argument("--number", type=int, help="seeds (default 5), or kills (default 10)")
    args = parser.parse_args()
    if args.part == "pruning":
        pruning(args.number or 5)
    else:
        kills(args.number or 10)


if __name__ == "__main__":
    main()
