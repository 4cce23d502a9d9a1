"""The vae of pytorch/examples, https://github.com/pytorch/examples/tree/main/vae.

The model is 784-400-20 with gray cross-entropy + KL. Images of torchvision come from a DataLoader,
the loss is read at every step, and after each epoch the program evaluates the test images and
writes two pictures. It trains on all but ``--val-size`` training images and tests on the others, so
that both sides do the same arithmetic.
"""

import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor
from torchvision.utils import save_image

from benchmarks.contenders import common


class VAE(nn.Module):
    """The model 784-width-latent_dim-width-784."""

    def __init__(self, width: int, latent_dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(784, width)
        self.mean, self.log_var = nn.Linear(width, latent_dim), nn.Linear(width, latent_dim)
        self.up, self.out = nn.Linear(latent_dim, width), nn.Linear(width, 784)

    def decode(self, z: Tensor) -> Tensor:
        """Returns the probabilities of the pixels, (B, 784)."""
        return torch.sigmoid(self.out(F.relu(self.up(z))))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns decoded images (B, 784), mean and log variance (B, L)."""
        hidden = F.relu(self.hidden(images.view(-1, 784)))
        mean, log_var = self.mean(hidden), self.log_var(hidden)
        return self.decode(mean + torch.randn_like(mean) * torch.exp(0.5 * log_var)), mean, log_var


def loss_of(model: VAE, images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns cross-entropy + KL, summed over the batch, and the decoded images."""
    decoded, mean, log_var = model(images)
    kl = -0.5 * torch.sum(1 + log_var - mean.pow(2) - log_var.exp())
    return F.binary_cross_entropy(decoded, images.view(-1, 784), reduction="sum") + kl, decoded


def main() -> None:
    """Trains, and tests after each epoch."""
    args = common.arguments(__doc__)
    common.seed()
    data = MNIST(args.root, train=True, transform=ToTensor())
    parts = [Subset(data, range(args.val_size, len(data))), Subset(data, range(args.val_size))]
    train, test = (DataLoader(part, batch_size=args.batch_size, shuffle=True) for part in parts)
    model = VAE(args.width, args.latent_dim)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with tempfile.TemporaryDirectory() as folder:
        for epoch in range(1, args.epochs + 1):
            total = 0.0
            model.train()
            for images, _ in train:
                optimizer.zero_grad()
                loss, _ = loss_of(model, images)
                loss.backward()
                total += loss.item()
                optimizer.step()
            evaluate(model, test, Path(folder), epoch, args.latent_dim)
            common.report(epoch, args.epochs, total / len(parts[0]))


def evaluate(model: VAE, test: DataLoader, folder: Path, epoch: int, latent_dim: int) -> None:
    """Evaluates the test images and writes the pictures."""
    model.eval()
    total = 0.0
    with torch.no_grad():
        for number, (images, _) in enumerate(test):
            loss, decoded = loss_of(model, images)
            total += loss.item()
            if number == 0:
                pairs = torch.cat([images[:8], decoded.view(-1, 1, 28, 28)[:8]])
                save_image(pairs, folder / f"reconstruction_{epoch}.png", nrow=8)
        save_image(
            model.decode(torch.randn(64, latent_dim)).view(64, 1, 28, 28),
            folder / f"sample_{epoch}.png",
        )


if __name__ == "__main__":
    main()
