"""A careful hand-written training loop in eager PyTorch.

The images are in memory as float32, Adam is fused, and the loss is read once per epoch.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.contenders import common


class ConvEncoder(nn.Sequential):
    """Convolutions 28 -> 14 -> 7, then dense layers."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__(
            nn.Unflatten(1, (1, 28, 28)),
            nn.Conv2d(1, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * 49, 256),
            nn.ReLU(),
            nn.Linear(256, 2 * latent_dim),
        )


class ConvDecoder(nn.Sequential):
    """Dense layers, then transposed convolutions 7 -> 14 -> 28."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__(
            nn.Linear(latent_dim, 256),
            nn.ReLU(),
            nn.Linear(256, 64 * 49),
            nn.ReLU(),
            nn.Unflatten(1, (64, 7, 7)),
            nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 1, 4, stride=2, padding=1),
            nn.Flatten(),
        )


class VAE(nn.Module):
    """The model 784-width-latent_dim-width-784, or the convolutions."""

    def __init__(self, model: str, width: int, latent_dim: int) -> None:
        super().__init__()
        if model == "conv":
            self.encoder, self.decoder = ConvEncoder(latent_dim), ConvDecoder(latent_dim)
        else:
            self.encoder = nn.Sequential(
                nn.Linear(784, width), nn.ReLU(), nn.Linear(width, 2 * latent_dim)
            )
            self.decoder = nn.Sequential(
                nn.Linear(latent_dim, width), nn.ReLU(), nn.Linear(width, 784)
            )

    def forward(self, x: Tensor, samples: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Images x (B, 784) -> summed squared error (K, B), mean and std (B, L), z (K, B, L)."""
        mean, raw = self.encoder(x).chunk(2, dim=1)
        std = F.softplus(raw)
        z = mean + std * torch.randn(samples, *mean.shape)
        decoded = torch.sigmoid(self.decoder(z.flatten(0, 1))).view(samples, *x.shape)
        return (x - decoded).square().sum(-1), mean, std, z


def terms(recon: Tensor, mean: Tensor, std: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the loss and the -ELBO, summed over the batch."""
    kl = -0.5 * (1 + 2 * std.log() - mean.square() - std.square()).sum(-1)
    neg_elbo = recon.mean(0).sum() + kl.sum()
    if len(z) == 1:
        return neg_elbo, neg_elbo.detach()
    # log p(z) - log q(z|x)
    log_ratio = (-0.5 * z.square() + 0.5 * ((z - mean) / std).square() + std.log()).sum(-1)
    return (math.log(len(z)) - (log_ratio - recon).logsumexp(0)).sum(), neg_elbo.detach()


def main() -> None:
    """Trains and prints a line after each epoch."""
    args = common.arguments(__doc__)
    common.seed()
    data = common.pixels(args.root).flatten(1).float() / 255
    model = VAE(args.model, args.width, args.latent_dim)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    for epoch in range(1, args.epochs + 1):
        total = torch.zeros(())
        order = torch.randperm(len(data))
        for index in order.split(args.batch_size):
            x = data[index]
            loss, neg_elbo = terms(*model(x, args.samples))
            optimizer.zero_grad()
            (loss / len(x)).backward()
            optimizer.step()
            total += neg_elbo
        common.report(epoch, args.epochs, float(total) / len(data))


if __name__ == "__main__":
    main()
