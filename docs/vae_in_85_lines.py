"""A variational autoencoder in one file; it requires only PyTorch, NumPy and scikit-learn.

    python docs/vae_in_85_lines.py                # scikit-learn's digits
    python docs/vae_in_85_lines.py data/MNIST     # MNIST, from the IDX files in this folder

Shapes: B images of D = 784 pixels, L = 16 latent variables.
Kingma & Welling 2014, https://arxiv.org/abs/1312.6114
"""

import gzip
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn


class VAE(nn.Module):
    """q(z|x) = N(mean(x), std(x)^2), p(x|z) = N(decoder(z), 1/2) and p(z) = N(0, 1)."""

    def __init__(self, pixels: int = 784, hidden: int = 400, latent: int = 16) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent)
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, pixels), nn.Sigmoid()
        )

    def forward(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, D) in [0, 1], noise eps (B, L) -> squared error and KL per image, (B,) each."""
        mean, raw_std = self.encoder(x).chunk(2, dim=1)
        std = F.softplus(raw_std) + 1e-6  # positive for every output of the encoder
        z = mean + std * eps  # a sample of q(z|x), differentiable in mean and std
        squared_error = (x - self.decoder(z)).square().sum(1)  # -log p(x|z) without a constant
        kl = -0.5 * (1 + 2 * std.log() - mean.square() - std.square()).sum(1)
        return squared_error, kl


def read_idx(folder: str, prefix: str) -> Tensor:
    """Reads the images of an IDX file that lies in the folder or below it: (N, D) in [0, 1]."""
    path = next(Path(folder).rglob(f"{prefix}-images*idx3-ubyte*"))
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16)  # after a header of 16 bytes
    return torch.tensor(pixels.reshape(-1, 784) / np.float32(255))


def load(folder: str | None) -> tuple[Tensor, Tensor]:
    """Returns training and test images, (N, D) each."""
    if folder:
        return read_idx(folder, "train"), read_idx(folder, "t10k")
    pixels, _ = load_digits(return_X_y=True)  # (N, 64) in [0, 16]
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    images = F.interpolate(images, size=28, mode="bilinear").flatten(1)
    return images[:1500], images[1500:]


def main(folder: str | None = None, epochs: int = 20) -> None:
    """Trains a VAE, prints the loss terms on the test images, and draws three new images."""
    torch.manual_seed(0)
    train, test = load(folder)
    model = VAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(1, epochs + 1):
        for x in train[torch.randperm(len(train))].split(128):
            squared_error, kl = model(x, torch.randn(len(x), 16))
            loss = (squared_error + kl).mean()  # the negative ELBO, averaged over the batch
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            error, kl = (term.mean() for term in model(test, torch.randn(len(test), 16)))
        print(f"epoch {epoch:2}: squared error {error:.2f} + KL {kl:.2f} = {error + kl:.2f} nats")
    images = model.decoder(torch.randn(3, 16)).view(3, 28, 28)
    for image in images[:, ::2]:  # every other row, because characters are tall
        for row in image:
            print("".join(" .:-=+*#%@"[int(9.99 * pixel)] for pixel in row))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
