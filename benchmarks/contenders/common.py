"""What all contenders share: the command line, the images and the line after each epoch."""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor
from torchvision.datasets import MNIST


def arguments(description: str) -> argparse.Namespace:
    """Parses the workload in the form in which benchmarks.workload writes it."""
    program = Path(sys.argv[0]).stem
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.contenders.{program}", description=description
    )
    parser.add_argument("--root", type=Path, required=True, help="folder that contains MNIST/raw")
    defaults = {
        "batch-size": 128,
        "latent-dim": 20,
        "width": 400,
        "epochs": 6,
        "samples": 1,
        "val-size": 0,
    }
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default, help="default %(default)s")
    parser.add_argument("--model", choices=("mlp", "conv"), default="mlp")
    parser.add_argument(
        "--likelihood", choices=("squared_error", "bernoulli"), default="squared_error"
    )
    return parser.parse_args()


def refuse(description: str, error: ModuleNotFoundError) -> NoReturn:
    """Exits because a package is missing; --help works without the package."""
    arguments(description)
    sys.exit(f"requires {error.name}: pip install -e '.[bench]'")


def require_mlp(args: argparse.Namespace) -> None:
    """Exits unless the workload is the mlp with one posterior sample per image."""
    if (args.model, args.samples) != ("mlp", 1):
        sys.exit(f"--model={args.model} --samples={args.samples}: must be mlp and 1")


def pixels(root: Path) -> Tensor:
    """Returns the training images, uint8 (N, 28, 28)."""
    return MNIST(root, train=True).data


def report(epoch: int, epochs: int, loss: float) -> None:
    """Prints the line that marks the end of an epoch; the loss is in nats per image."""
    print(f"epoch {epoch}/{epochs}   train -elbo {loss:.4f}", flush=True)


def seed() -> None:
    """Gives every run of a contender the same initial weights and noise."""
    torch.manual_seed(0)
