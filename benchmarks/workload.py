"""What is trained, and the commands that train it."""

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path


@dataclass(frozen=True)
class Workload:
    """The mlp 784-width-latent_dim, or the convolutions of model=conv; Adam; summed squared error + KL.

    With ``val_size`` that many of the training images are left out and passed through after each epoch.
    """

    root: Path  # holds MNIST/raw
    batch_size: int = 128
    latent_dim: int = 20
    width: int = 400
    samples: int = 1  # more than one: IWAE
    model: str = "mlp"
    likelihood: str = "squared_error"  # or bernoulli: grey cross-entropy
    val_size: int = 0
    epochs: int = 6

    def arguments(self) -> list[str]:
        """For a contender."""
        values = {name.replace("_", "-"): value for name, value in vars(self).items()}
        return [part for name, value in values.items() for part in (f"--{name}", str(value))]

    def overrides(self, run: Path) -> list[str]:
        """For our command; everything else is its default: logging, pictures, checkpoints, progress bar."""
        widths = [] if self.model == "conv" else [f"model.hidden_dims=[{self.width}]"]
        objective = ["objective=iwae", f"objective.num_samples={self.samples}"] if self.samples > 1 else []
        grey = ["likelihood.grey=true"] if self.likelihood == "bernoulli" else []
        return [
            *(f"model={self.model}", f"model.latent_dim={self.latent_dim}", *widths, *objective),
            *(f"likelihood={self.likelihood}", *grey, f"data.val_size={self.val_size}", "data.fallback=null"),
            *(f"data.root={self.root}", f"data.batch_size={self.batch_size}"),
            *(f"trainer.max_epochs={self.epochs}", "accelerator=cpu", f"hydra.run.dir={run}"),
        ]


Command = Callable[[Workload, Path], list[str]]


@dataclass(frozen=True)
class Contender:
    """A name and the command that trains a workload, whose files go into a new folder."""

    name: str
    command: Command
    needs: tuple[str, ...] = ()  # packages
    # of the workload, for it and for what it is held against
    changes: Mapping[str, int | str] = field(default_factory=dict)

    def missing(self) -> list[str]:
        """Packages that are not installed."""
        return [package for package in self.needs if importlib.util.find_spec(package) is None]


def ours(name: str, *overrides: str) -> Contender:
    """Our command with further overrides."""

    def command(workload: Workload, folder: Path) -> list[str]:
        return [sys.executable, "-m", "vae_lightning.train", *workload.overrides(folder / "run"), *overrides]

    return Contender(name, command)


def theirs(name: str, module: str, *needs: str, **changes: int | str) -> Contender:
    """A contender of benchmarks.contenders."""

    def command(workload: Workload, _: Path) -> list[str]:
        return [sys.executable, "-m", f"benchmarks.contenders.{module}", *workload.arguments()]

    return Contender(name, command, needs, changes)


# the step that the default takes in runs of 6,000 steps and more, and the one that it takes in shorter ones
OURS, PLAIN = ours("ours", "trainer.compile=true"), ours("ours, plain step", "trainer.compile=false")
HAND = theirs("hand-written loop", "hand")
CONTENDERS: dict[str, Contender] = {
    "hand": HAND,
    "jax": theirs("JAX, lax.scan", "jax_scan", "jax"),
    "examples": theirs("pytorch/examples vae, test pass", "pytorch_examples", val_size=10_000, likelihood="bernoulli"),
    "torchvision": theirs("torchvision loader loop", "torchvision_loader"),
    "pythae": theirs("pythae 0.1.2", "pythae_trainer", "pythae"),
    "lightning": theirs("Lightning, naive", "naive_lightning"),
    "bf16": ours("ours, bf16-mixed", "trainer.compile=true", "trainer.precision=bf16-mixed"),
}
# sizes beside the default one, ours against the hand-written loop
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
    """The workload in other sizes."""
    return {name: replace(workload, **SIZES[name]) for name in names}
