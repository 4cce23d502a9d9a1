"""A run from Python: ``load_run("outputs/...")`` samples, encodes, reconstructs and gives log p(x).

Shapes: N images, L latent dimensions, C H W of an image. Results are on the device of ``Run.module``, the CPU unless it
is moved.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from omegaconf import DictConfig
from torch import Tensor

from vae_lightning import config, evaluation, rng, trainers, weights
from vae_lightning.data import ImageData
from vae_lightning.distributions import BernoulliLikelihood, DiagonalNormal, FullNormal
from vae_lightning.module import EVALUATION_SEED, VAE

STD_SAMPLES = 256  # draws behind the std of a posterior that has none in closed form: it is known to 4 %


class Encoding(NamedTuple):
    """Moments of q(z|x)."""

    mean: Tensor  # E[z|x], (N, L)
    std: Tensor  # standard deviation of each coordinate of z given x, (N, L)


@dataclass(frozen=True)
class Run:
    """A model with its weights. ``label``, of a conditional model: an integer, or one for each image."""

    source: Path  # a run folder or a .safetensors file
    cfg: DictConfig
    module: VAE  # in evaluation mode
    checkpoint: str  # best or last
    step: int  # optimiser steps behind the weights

    @cached_property
    def data(self) -> ImageData:
        """The data that the run was trained on; ValueError where they are not on this machine and cannot be had."""
        return trainers.build_data(self.cfg)

    def images(self, split: str = "test") -> Tensor:
        """The images of train, val or test, uint8, binarised as in training unless that is dynamic: (N, C, H, W)."""
        return of_split(self.data.images, split)

    def labels(self, split: str = "test") -> Tensor:
        """The labels of train, val or test: (N,)."""
        return of_split(self.data.labels, split)

    @torch.no_grad()
    def sample(self, count: int, seed: int = 0, label: int | Tensor | None = None) -> Tensor:
        """E[x|z] for ``count`` draws z ~ p(z) that ``seed`` determines: (count, C, H, W)."""
        if not config.whole(count, 1):
            raise ValueError(f"count={count}: must be an integer >= 1")
        generator = rng.generator(self.module.device, seed, "samples")
        return self.decode(self.module.prior(self.module.encoder).sample(count, generator), label)

    @torch.no_grad()
    def decode(self, z: Tensor, label: int | Tensor | None = None) -> Tensor:
        """E[x|z] for z (N, L): (N, C, H, W)."""
        z = torch.as_tensor(z, dtype=torch.float32, device=self.module.device)
        if z.ndim != 2 or z.shape[1] != self.module.latent_dim:
            raise ValueError(f"z: must have shape (N, {self.module.latent_dim}), got {tuple(z.shape)}")
        return self.module.decoder(z[None], *self.condition(label, len(z))).mean[0]

    @torch.no_grad()
    def encode(self, x: Tensor, label: int | Tensor | None = None) -> Encoding:
        """Mean and std of q(z|x), (N, L) each; of a flow, by 256 fixed draws, as they have no closed form there.

        x: uint8 in [0, 255] or float in [0, 1], of shape (N, C, H, W), or (N, H, W) or (H, W) where C = 1.
        """
        x = self.pixels(x)
        posterior = self.module.encoder(x, *self.condition(label, len(x)))
        if isinstance(posterior, DiagonalNormal | FullNormal):
            return Encoding(posterior.mean, posterior.marginals().std)
        shape = (STD_SAMPLES, len(x), self.module.latent_dim)
        noise = rng.normal((STD_SAMPLES, 1, shape[-1]), "cpu", EVALUATION_SEED, "std").to(x)
        return Encoding(posterior.mean, posterior.rsample(noise.expand(shape)).std(0))

    def reconstruct(self, x: Tensor, label: int | Tensor | None = None) -> Tensor:
        """E[x|z] at z = E[z|x], for x as in encode: (N, C, H, W)."""
        return self.decode(self.encode(x, label).mean, label)

    def log_prob(self, x: Tensor, num_samples: int = 500, label: int | Tensor | None = None) -> Tensor:
        """log p(x) in nats per image, normalised, by importance sampling, for x as in encode: (N,), float64.

        In expectation a lower bound, which rises with ``num_samples``; see evaluation.log_likelihood. Noise is fixed by
        an image's place in x. ValueError for pixels outside the support of the likelihood.
        """
        if not config.whole(num_samples, 1):
            raise ValueError(f"num_samples={num_samples}: must be an integer >= 1")
        x = self.pixels(x)
        condition = self.condition(label, len(x))
        self.check_support(x)
        values = []
        for index in torch.arange(len(x)).split(evaluation.BATCH):
            given = tuple(labels[index] for labels in condition)
            values.append(evaluation.log_likelihood(self.module, x[index], index, num_samples, given))
        return torch.cat(values)

    def check_support(self, x: Tensor) -> None:
        """Raises ValueError for grey pixels where the likelihood is of 0 and 1, and was not told to take grey ones."""
        decoder = self.module.decoder
        binary = isinstance(decoder, BernoulliLikelihood) and not decoder.grey
        if binary and ((x != 0) & (x != 1)).any():
            raise ValueError("x: must be 0 and 1 only, as likelihood=bernoulli gives other pixels no probability")

    def pixels(self, x: Tensor) -> Tensor:
        """Images as the encoder takes them, float32 in [0, 1], (N, C, H, W); ValueError for what cannot be images."""
        x = torch.as_tensor(x, device=self.module.device)
        shape = tuple(self.cfg.data.image_shape)
        if not (x.shape[1:] == shape or (shape[0] == 1 and x.ndim in (2, 3) and x.shape[-2:] == shape[1:])):
            size = ", ".join(map(str, shape[1:]))
            allowed = f"(N, {shape[0]}, {size})" + (f", (N, {size}) or ({size})" if shape[0] == 1 else "")
            raise ValueError(f"x: must have shape {allowed}, got {tuple(x.shape)}")
        if not x.numel():
            raise ValueError("x: must hold at least one image")
        if x.dtype == torch.uint8:
            return x.float().reshape(-1, *shape) / 255
        if not x.is_floating_point() or not ((x >= 0) & (x <= 1)).all():
            found = f"{str(x.dtype).removeprefix('torch.')} from {x.min().item():g} to {x.max().item():g}"
            raise ValueError(f"x: must be uint8 in [0, 255] or float in [0, 1], got {found}")
        return x.float().reshape(-1, *shape)

    def condition(self, label: int | Tensor | None, count: int) -> Sequence[Tensor]:
        """What encoder and decoder are called with beside x or z: labels (count,), or nothing."""
        classes = self.module.classes
        if not classes:
            if label is not None:
                raise ValueError("label: must be left out, as this model is not conditional")
            return ()
        allowed = f"an integer from 0 to {classes - 1}, or {count} of them"
        if label is None:
            raise ValueError(f"label: must be given, {allowed}, as this model is conditional")
        labels = torch.as_tensor(label, device=self.module.device)
        if labels.dtype.is_floating_point or labels.dtype == torch.bool or labels.shape not in ((), (count,)):
            raise ValueError(f"label: must be {allowed}, got {labels.dtype} of shape {tuple(labels.shape)}")
        if not ((labels >= 0) & (labels < classes)).all():
            raise ValueError(f"label: must be {allowed}, got {int(labels.min())} to {int(labels.max())}")
        return (labels.long().expand(count),)


def of_split(parts: dict[str, Tensor], split: str) -> Tensor:
    """A split's tensor; ValueError for a name that is no split."""
    if split not in parts:
        raise ValueError(f"split={split}: must be one of {', '.join(parts)}")
    return parts[split]


def load(run: str | Path, checkpoint: str = "best", trust: bool = False) -> Run:
    """The model in a run folder, or in a .safetensors file that export wrote; no data are needed.

    Args:
        run: the folder or the file.
        checkpoint: ``best`` or ``last``; a file holds the one that was exported.
        trust: let the stored configuration name classes of other packages.

    Raises ValueError, one line, for what is missing, damaged or of another version.
    """
    source = Path(run).expanduser()
    if source.suffix == ".safetensors":
        return Run(source, *weights.read_safetensors(source, trust))
    return Run(source, *weights.read_run(source, checkpoint, trust))
