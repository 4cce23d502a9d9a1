"""The workload that is measured, and the commands that train it."""

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path


@dataclass(frozen=True)
class Workload:
    """A training: the mlp 784-width-latent_dim or model=conv, Adam, summed squared error + KL.

    ``val_size`` training images are held out and evaluated after each epoch.
    """

    root: Path  # contains MNIST/raw
    batch_size: int = 128
    latent_dim: int = 20
    width: int = 400
    samples: int = 1  # posterior samples per image; IWAE if there are more than one
    model: str = "mlp"
    likelihood: str = "squared_error"  # or bernoulli, for gray cross-entropy
    val_size: int = 0
    epochs: int = 6

    def arguments(self) -> list[str]:
        """Returns the command-line arguments of a contender."""
        values = {name.replace("_", "-"): value for name, value in vars(self).items()}
        return [part for name, value in values.items() for part in (f"--{name}", str(value))]

    def overrides(self, run: Path) -> list[str]:
        """Returns the overrides of our command.

        Everything else has its default: logging, pictures, checkpoints and the progress bar.
        """
        widths = [] if self.model == "conv" else [f"model.hidden_dims=[{self.width}]"]
        objective = (
            ["objective=iwae", f"objective.num_samples={self.samples}"] if self.samples > 1 else []
        )
        gray = ["likelihood.gray=true"] if self.likelihood == "bernoulli" else []
        return [
            f"model={self.model}",
            f"model.latent_dim={self.latent_dim}",
            *widths,
            *objective,
            f"likelihood={self.likelihood}",
            *gray,
            f"data.val_size={self.val_size}",
            "data.name=benchmark",  # the images may be artificial: their fingerprint is not MNIST's
            "data.fallback=null",
            f"data.root={self.root}",
            f"data.batch_size={self.batch_size}",
            f"trainer.max_epochs={self.epochs}",
            "accelerator=cpu",
            f"hydra.run.dir={run}",
        ]


Command = Callable[[Workload, Path], list[str]]


@dataclass(frozen=True)
class Contender:
    """A name and the command that trains a workload and writes its files to a new folder."""

    name: str
    command: Command
    needs: tuple[str, ...] = ()  # required packages
    # changes of the workload, for this contender and for ours that it is compared with
    changes: Mapping[str, int | str] = field(default_factory=dict)
    # where the command runs and imports this package from; None: the current directory
    checkout: Path | None = None

    def missing(self) -> list[str]:
        """Returns the required packages that are not installed."""
        return [package for package in self.needs if importlib.util.find_spec(package) is None]


def ours(name: str, *overrides: str, checkout: Path | None = None) -> Contender:
    """Returns our command with further overrides, if given from another checkout."""

    def command(workload: Workload, folder: Path) -> list[str]:
        return [
            sys.executable,
            "-m",
            "vae_lightning.train",
            *workload.overrides(folder / "run"),
            *overrides,
        ]

    return Contender(name, command, checkout=checkout)


def theirs(name: str, module: str, *needs: str, **changes: int | str) -> Contender:
    """Returns a program of benchmarks.contenders."""

    def command(workload: Workload, _: Path) -> list[str]:
        return [sys.executable, "-m", f"benchmarks.contenders.{module}", *workload.arguments()]

    return Contender(name, command, needs, changes)


ONE_STEP = "trainer.steps_per_execution=1"
# by default, runs of 6,000 steps or more take the compiled step, and shorter runs the plain one
OURS, PLAIN = (
    ours("ours", "trainer.compile=true"),
    ours("ours, plain step", "trainer.compile=false"),
)
HAND = theirs("hand-written loop", "hand")
CONTENDERS: dict[str, Contender] = {
    "hand": HAND,
    "jax": theirs("JAX, lax.scan", "jax_scan", "jax"),
    "examples": theirs(
        "pytorch/examples vae, test pass",
        "pytorch_examples",
        val_size=10_000,
        likelihood="bernoulli",
    ),
    "torchvision": theirs("torchvision loader loop", "torchvision_loader"),
    "pythae": theirs("pythae 0.1.2", "pythae_trainer", "pythae"),
    "lightning": theirs("Lightning, naive", "naive_lightning"),
    "1-thread": ours("ours, 1 thread", "trainer.compile=true", "trainer.threads=1"),
    "2-threads": ours("ours, 2 threads", "trainer.compile=true", "trainer.threads=2"),
    "one-step": ours("ours, one step per call", "trainer.compile=true", ONE_STEP),
    "plain-one-step": ours("ours, plain, one step per call", "trainer.compile=false", ONE_STEP),
    "bf16": ours("ours, bf16-mixed", "trainer.compile=true", "trainer.precision=bf16-mixed"),
}
# other sizes than the default ones, for comparing ours with the hand-written loop
SIZES: dict[str, dict[str, int | str]] = {
    "batch 32": {"batch_size": 32},
    "batch 512": {"batch_size": 512},
    "latent 2": {"latent_dim": 2},
    "latent 128": {"latent_dim": 128},
    "conv": {"model": "conv", "epochs": 2},
    "IWAE k=5": {"samples": 5, "epochs": 3},
    "IWAE k=50": {"samples": 50, "epochs": 2},
}


def sized(workload: Workload, names: Sequence[str]) -> dict[str, Workload]:
    """Returns the workload in other sizes."""
    return {name: replace(workload, **SIZES[name]) for name in names}
