"""A loaded run as a Python object: samples, encodes, decodes, reconstructs, computes log p(x).

``load_run("outputs/...")`` returns a ``Run``.
Shapes: N images, L latent dimensions, C H W of an image. Results are on the device of
``Run.module``, which is the CPU unless the module is moved.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor

from vae_lightning import rng
from vae_lightning.checks.errors import ConfigError
from vae_lightning.checks.ranges import SEEDS, Integer
from vae_lightning.data.images import ImageData
from vae_lightning.distributions import BernoulliLikelihood, Mixture, Prior
from vae_lightning.evaluation.batches import batch_slices
from vae_lightning.evaluation.latents import Moments, moments
from vae_lightning.evaluation.mixture import fit_mixture
from vae_lightning.evaluation.scores import Scores, image_scores
from vae_lightning.networks import UNCONDITIONAL, Condition
from vae_lightning.runs.images import Inputs, Source, Wanted, as_images, as_tensor, binarized
from vae_lightning.training.assembly import build_data
from vae_lightning.training.module import VAE
from vae_lightning.training.summary import describe

PRIORS = ("model", "gmm")
NOT_NORMALIZED = (
    "requires likelihood.gray=false: a Bernoulli distribution gives no probability to gray pixels"
)


@dataclass(frozen=True)
class Run:
    """A trained model with its configuration.

    The methods of a conditional model require ``label``: one integer, or one for each image, such
    as ``run.sample(16, label=7)``. Results are tensors without gradients, on the device of
    ``module``: the CPU, unless the module is moved. For gradients, call ``module.encoder`` and
    ``module.decoder``.

    >>> run.checkpoint, run.image_shape
    ('best', [1, 28, 28])
    """

    source: Path  # a run folder or a .safetensors file
    cfg: DictConfig
    module: VAE  # in evaluation mode
    checkpoint: str  # best or last
    step: int  # number of optimizer steps that produced the weights

    @cached_property
    def data(self) -> ImageData:
        """The data set of the run; raises ConfigError if it is neither here nor downloadable."""
        return build_data(self.cfg)

    @property
    def description(self) -> str:
        """The model in one line, with its data set, latent dimensions and likelihood."""
        return describe(self.cfg.data.name, self.module)

    @property
    def image_shape(self) -> list[int]:
        """C, H, W."""
        return list(self.cfg.data.image_shape)

    def images(self, split: str = "test") -> Tensor:
        """Returns the images of a split (train, val or test), uint8: (N, C, H, W).

        They are binarized as evaluation does, so that dynamic binarization is done once. With
        ``data.range`` they are float32 in that range, like the arrays of the data.

        >>> run.images("test")[:16].shape
        torch.Size([16, 1, 28, 28])
        """
        select_split(self.data.images, split)
        images = self.data.evaluation_images(split)
        value_range = self.cfg.data.get("range")
        if value_range is None:
            return images
        low, high = value_range
        return low + images.float() / 255 * (high - low)

    def inputs(self, split: str, count: int | None = None) -> Inputs:
        """Returns the first images of a split, as in ``images``, as the encoder takes them."""
        select_split(self.data.images, split)
        images = self.data.evaluation_images(split, slice(count))
        return Inputs(images.to(self.module.device).float() / 255)

    def labels(self, split: str = "test") -> Tensor:
        """Returns the labels of a split (train, val or test): (N,).

        >>> run.labels("test")[:3]
        tensor([0, 1, 2])
        """
        return select_split(self.data.labels, split)

    @torch.no_grad()
    def sample(
        self,
        count: int,
        seed: int = 0,
        label: int | Tensor | None = None,
        prior: str = "model",
    ) -> Tensor:
        """Returns E[x|z] for ``count`` draws z from ``seed``: (count, C, H, W).

        z is drawn from the prior of the model, or, with ``prior="gmm"``, from a Gaussian mixture
        that is fitted to the codes of the training images, see evaluation.mixture.

        >>> run.sample(16, seed=1).shape
        torch.Size([16, 1, 28, 28])
        """
        if not Integer(1).contains(count):
            raise ConfigError(f"count={count}: must be an integer >= 1")
        if not SEEDS.contains(seed):
            raise ConfigError(f"seed={seed}: must be {SEEDS.allowed}")
        generator = rng.generator(self.module.device, seed, "samples")
        return self.decode(self.prior(prior).sample(count, generator), label)

    def prior(self, name: str) -> Prior:
        """Returns the prior of the model (``model``) or the fitted mixture (``gmm``)."""
        if name not in PRIORS:
            raise ConfigError(f"prior={name}: must be one of {', '.join(PRIORS)}")
        return self.mixture if name == "gmm" else self.module.prior(self.module.encoder)

    @cached_property
    def mixture(self) -> Mixture:
        """A Gaussian mixture that is fitted to the codes of the training images."""
        return fit_mixture(self.module, self.data)

    @torch.no_grad()
    def decode(self, z: Tensor, label: int | Tensor | None = None) -> Tensor:
        """Returns E[x|z] for z (N, L): (N, C, H, W).

        >>> run.decode(run.encode(run.images("test")[:1]).mean).shape
        torch.Size([1, 1, 28, 28])
        """
        z = as_tensor("z", z).to(self.module.device, torch.float32)
        if z.ndim != 2 or z.shape[1] != self.module.latent_dim:
            raise ConfigError(
                f"z: must have shape (N, {self.module.latent_dim}), got {tuple(z.shape)}"
            )
        if not z.isfinite().all():
            raise ConfigError("z: must be finite")
        condition = self.condition(label, len(z))
        parts = [
            self.module.decoder(z[None, part], condition.take(part)).mean[0]
            for part in batch_slices(len(z))
        ]
        return torch.cat(parts) if parts else z.new_zeros(0, *self.image_shape)

    @torch.no_grad()
    def encode(self, x: Source | Inputs, label: int | Tensor | None = None) -> Moments:
        """Returns the mean and standard deviation of q(z|x), (N, L) each.

        A flow has no closed form; 256 draws with fixed noise estimate them.

        Args:
            x: images as tensor, numpy array, PIL image or path, or a list of these; see
                images.as_images. They are binarized like test images if the data of the run are.
            label: the labels, if the model is conditional.

        >>> mean, std = run.encode(run.images("test")[:16])
        >>> mean.shape, bool((std > 0).all())
        (torch.Size([16, 3]), True)
        """
        x = self.prepare_images(x)
        condition = self.condition(label, len(x))
        parts = [
            moments(self.module.encoder(x[part], condition.take(part)))
            for part in batch_slices(len(x))
        ]
        return Moments(*map(torch.cat, zip(*parts, strict=True)))

    def reconstruct(self, x: Source | Inputs, label: int | Tensor | None = None) -> Tensor:
        """Returns E[x|z] at z = E[z|x], for x as in encode: (N, C, H, W).

        >>> run.reconstruct(run.images("test")[:16]).shape
        torch.Size([16, 1, 28, 28])
        """
        return self.decode(self.encode(x, label).mean, label)

    def log_prob(
        self, x: Source | Inputs, num_samples: int = 500, label: int | Tensor | None = None
    ) -> Tensor:
        """Estimates log p(x) by importance sampling, for x as in encode: (N,), float64.

        In nats per image, with all normalizing constants. In expectation the estimate is a lower
        bound, which rises with ``num_samples``; see evaluation.likelihood.log_likelihood. The noise
        of an image depends only on its index in x.

        Raises ConfigError for pixels outside the support of the likelihood.

        >>> run.log_prob(run.images("test")[:16], num_samples=10).shape
        torch.Size([16])
        """
        if not self.module.decoder.is_normalized:
            raise ConfigError(
                f"log_prob: {NOT_NORMALIZED}; evaluate reports the gray_cross_entropy instead"
            )
        nll = self.score(x, num_samples, label).nll
        assert nll is not None
        return -nll

    def score(
        self,
        x: Source | Inputs,
        num_samples: int = 500,
        label: int | Tensor | None = None,
        done: Callable[[int], object] = lambda _: None,
    ) -> Scores:
        """Computes -log p(x), recon, KL and the negative ELBO of each image, for x as in encode.

        All are estimated from the same draws of q(z|x), see evaluation.scores.image_scores.
        -log p(x) is that of log_prob; it is None if p(x|z) is not normalized. After each part,
        ``done`` is called with the number of its draws, summed over its images.

        Raises ConfigError for pixels outside the support of the likelihood.

        >>> run.score(run.images("test")[:16], num_samples=10).neg_elbo.shape
        torch.Size([16])
        """
        if not Integer(1).contains(num_samples):
            raise ConfigError(f"num_samples={num_samples}: must be an integer >= 1")
        x = self.prepare_images(x)
        condition = self.condition(label, len(x))
        if self.module.decoder.is_normalized:
            self.check_support(x)
        return image_scores(self.module, x, num_samples, condition, done)

    def check_support(self, x: Tensor) -> None:
        """Raises ConfigError for gray pixels if the likelihood is Bernoulli."""
        binary = isinstance(self.module.decoder, BernoulliLikelihood)
        if binary and ((x != 0) & (x != 1)).any():
            raise ConfigError(
                "x: must be 0 and 1 only, because likelihood=bernoulli gives no probability to "
                "other values"
            )

    def prepare_images(self, source: Source | Inputs) -> Tensor:
        """Converts images to the input of the encoder: float32 in [0, 1], (N, C, H, W).

        They are binarized like test images if the data of the run are. Raises ConfigError for what
        cannot be images of this model; see images.as_images.
        """
        return source.x if isinstance(source, Inputs) else self.new_images(source)[0].x

    def new_images(self, source: Source, key: str = "x") -> tuple[Inputs, list[str]]:
        """Returns images as in prepare_images, and their names as in images.as_images."""
        data = self.cfg.data
        channels, height, width = self.image_shape
        wanted = Wanted(
            (channels, height, width), data.get("range"), data.get("background", "white")
        )
        x, names = as_images(source, wanted, key)
        x = binarized(x.to(self.module.device), data.binarization, data.name)
        return Inputs(x), names

    def condition(self, label: int | Tensor | None, count: int) -> Condition:
        """Returns the condition of encoder and decoder: labels (count,), or UNCONDITIONAL.

        Raises ConfigError if the label does not fit the model or is not in the allowed range.
        """
        classes = self.module.classes
        if not classes:
            if label is not None:
                raise ConfigError("label: must be omitted, because this model is not conditional")
            return UNCONDITIONAL
        allowed = f"an integer from 0 to {classes - 1}, or {count} of them"
        if label is None:
            raise ConfigError(f"label: must be {allowed}, because this model is conditional")
        labels = as_tensor("label", label).to(self.module.device)
        if (
            labels.dtype.is_floating_point
            or labels.dtype == torch.bool
            or labels.shape not in ((), (count,))
        ):
            raise ConfigError(
                f"label: must be {allowed}, got {labels.dtype} of shape {tuple(labels.shape)}"
            )
        if not ((labels >= 0) & (labels < classes)).all():
            raise ConfigError(
                f"label: must be {allowed}, got {int(labels.min())} to {int(labels.max())}"
            )
        return Condition(labels.long().expand(count))


def select_split(parts: dict[str, Tensor], split: str) -> Tensor:
    """Returns the tensor of a split; raises ConfigError if there is no such split."""
    if split not in parts:
        raise ConfigError(f"split={split}: must be one of {', '.join(parts)}")
    return parts[split]
