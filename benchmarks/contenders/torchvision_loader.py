"""The training loop of most tutorials.

It loads torchvision's MNIST with ToTensor and a DataLoader and reads the loss at every step.
"""

import torch
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

from benchmarks.contenders import common
from benchmarks.contenders.hand import VAE, terms


def main() -> None:
    """Trains and prints a line after each epoch."""
    args = common.arguments(__doc__)
    common.seed()
    data = MNIST(args.root, train=True, transform=ToTensor())
    loader = DataLoader(data, batch_size=args.batch_size, shuffle=True)
    model = VAE(args.model, args.width, args.latent_dim)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(1, args.epochs + 1):
        total = 0.0
        for images, _ in loader:
            x = images.flatten(1)
            optimizer.zero_grad()
            loss, neg_elbo = terms(*model(x, args.samples))
            loss.backward()
            total += neg_elbo.item()
            optimizer.step()
        common.report(epoch, args.epochs, total / len(data))


if __name__ == "__main__":
    main()
