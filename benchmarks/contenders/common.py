"""What all contenders share: their arguments, the images, the line after an epoch."""

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets import MNIST


def arguments() -> argparse.Namespace:
    """The workload, as benchmarks.workload writes it on a command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    defaults = {"batch-size": 128, "latent-dim": 20, "width": 400, "epochs": 6, "samples": 1, "val-size": 0}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--model", choices=("mlp", "conv"), default="mlp")
    parser.add_argument("--likelihood", choices=("squared_error", "bernoulli"), default="squared_error")
    return parser.parse_args()


def pixels(root: Path) -> Tensor:
    """The training images, uint8 (N, 28, 28)."""
    return MNIST(root, train=True).data


def report(epoch: int, epochs: int, loss: float) -> None:
    """The line whose arrival is the end of the epoch; loss in nats per image."""
    print(f"epoch {epoch}/{epochs}   train -elbo {loss:.4f}", flush=True)


def seed() -> None:
    """The same start for each run of a contender."""
    torch.manual_seed(0)
