"""Likelihoods p(x|z): modules that hold a decoder network and return a distribution over images (see pixels.py).

``network`` is called with the number of outputs per pixel and returns the decoder: z (B, L) -> (B, outputs * C, H, W).
What follows z in a call, the labels of a conditional model, goes on to the network.
Shapes: K samples, B images, C H W of an image.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae_lightning.distributions.normal import full_precision
from vae_lightning.distributions.pixels import (
    Bernoulli,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    Laplace,
    SquaredError,
)
from vae_lightning.part import Part, is_binary

MEAN_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"sigmoid": Tensor.sigmoid, "identity": lambda x: x}
# No learned scale gets smaller: a density of pixels that are always black would grow without bound.
SCALE_FLOOR = 0.01
# How fast an optimal scale follows the residuals of the batches.
OPTIMAL_RATE = 0.02


class Likelihood(Part):
    """What all likelihoods share.

    Attributes:
        description: what recon is, as results name it.
        discrete: recon is a negative log probability of 8-bit pixels, so that bits/dim mean something.
    """

    description: str
    discrete = False

    def __init__(self, network: Callable[[int], nn.Module], outputs: int = 1) -> None:
        super().__init__()
        self.network = network(outputs)

    def decode(self, z: Tensor, *condition: Tensor) -> Tensor:
        """The network's outputs for z (K, B, L), at least float32: (K, B, outputs * C, H, W)."""
        outputs = full_precision(self.network(z.flatten(0, 1), *condition))
        return outputs.view(*z.shape[:2], *outputs.shape[1:])  # a third of the time of unflatten


def mean_activation_of(name: str) -> Callable[[Tensor], Tensor]:
    """The function of that name; ValueError for a name that is not in MEAN_ACTIVATIONS."""
    if name not in MEAN_ACTIVATIONS:
        raise ValueError(f"likelihood.mean_activation={name}: must be one of {', '.join(MEAN_ACTIVATIONS)}")
    return MEAN_ACTIVATIONS[name]


class SquaredErrorLikelihood(Likelihood):
    """p(x|z) = N(mean(z), 1/2 I), the seed's likelihood: its loss term is the summed squared error.

    Args:
        network: see above.
        mean_activation: ``sigmoid`` keeps the mean in (0, 1); ``identity`` leaves it free, as in probabilistic PCA.
    """

    description = "squared error"

    def __init__(self, network: Callable[[int], nn.Module], mean_activation: str = "sigmoid") -> None:
        super().__init__(network)
        self.mean_activation = mean_activation
        self.activate = mean_activation_of(mean_activation)

    def forward(self, z: Tensor, *condition: Tensor) -> SquaredError:
        """z (K, B, L) -> p(x|z) with mean (K, B, C, H, W)."""
        return SquaredError(self.activate(self.decode(z, *condition)))


@dataclass(frozen=True)
class Watched:
    """A distribution that tells the likelihood the residuals that it meets in training."""

    distribution: Gaussian | Laplace
    watch: Callable[[Tensor], None]

    def __getattr__(self, name: str) -> object:
        return getattr(self.distribution, name)

    def recon(self, x: Tensor) -> Tensor:
        """The distribution's own, for x (B, C, H, W): (K, B)."""
        self.watch(x - self.distribution.mean.detach())
        return self.distribution.recon(x)


class LocationScaleLikelihood(Likelihood):
    """p(x|z) of independent pixels around a location(z), with one of four kinds of scale.

    Args:
        network: see above.
        scale: a number > 0 is fixed; ``learned``: one parameter for all pixels; ``optimal``: the maximum-likelihood
            scale of the residuals, in closed form, as a running mean over batches (sigma-VAE, Rybkin et al. 2021,
            https://arxiv.org/abs/2006.13202); ``per_pixel``: a second output of the network. Those that are learned
            are at least SCALE_FLOOR.
        mean_activation: ``sigmoid`` or ``identity``, of the location.
    """

    family: ClassVar[Callable[[Tensor, Tensor], Gaussian | Laplace | DiscretizedLogistic]]
    name: ClassVar[str]
    key: ClassVar[str] = "scale"
    kinds: ClassVar[tuple[str, ...]] = ("learned", "optimal", "per_pixel")
    # the exponent e for which the optimal scale is E[|residual|^e]^(1/e)
    exponent: ClassVar[int] = 1

    def __init__(
        self, network: Callable[[int], nn.Module], scale: float | str, mean_activation: str = "sigmoid"
    ) -> None:
        fixed = isinstance(scale, int | float) and not isinstance(scale, bool) and 0 < scale < math.inf
        if not fixed and scale not in self.kinds:
            kinds = ", ".join(self.kinds)
            raise ValueError(f"likelihood.{self.key}={scale}: must be a finite number > 0 or one of {kinds}")
        super().__init__(network, 2 if scale == "per_pixel" else 1)
        self.activate = mean_activation_of(mean_activation)
        self.kind = scale if isinstance(scale, str) else "fixed"
        if self.kind == "fixed":
            self.register_buffer("scale", torch.tensor(float(scale)))
        elif self.kind == "learned":
            self.raw_scale = nn.Parameter(torch.tensor(-1.0))  # softplus: 0.31, about the spread of MNIST's pixels
        elif self.kind == "optimal":
            self.register_buffer("moment", torch.tensor(0.3**self.exponent))
        at_least = "" if self.kind == "fixed" else f", at least {SCALE_FLOOR}"
        self.description = f"{self.name}, {self.key} {scale}{at_least}".replace("_", " ")

    def forward(self, z: Tensor, *condition: Tensor) -> Gaussian | Laplace | DiscretizedLogistic | Watched:
        """z (K, B, L) -> p(x|z) with location (K, B, C, H, W)."""
        outputs = self.decode(z, *condition)
        if self.kind == "per_pixel":
            location, raw_scale = outputs.chunk(2, dim=-3)
            return self.family(self.activate(location), F.softplus(raw_scale) + SCALE_FLOOR)
        if self.kind == "learned":
            return self.family(self.activate(outputs), F.softplus(self.raw_scale) + SCALE_FLOOR)
        if self.kind == "fixed":
            return self.family(self.activate(outputs), self.scale)
        scale = self.moment.pow(1 / self.exponent).clamp(min=SCALE_FLOOR)  # a new tensor: watch changes the moment
        distribution = self.family(self.activate(outputs), scale)
        return Watched(distribution, self.watch) if self.training else distribution

    def watch(self, residual: Tensor) -> None:
        """Moves the mean of |residual|^exponent towards this batch's."""
        self.moment.lerp_(residual.abs().pow(self.exponent).mean(), OPTIMAL_RATE)


class GaussianLikelihood(LocationScaleLikelihood):
    """p(x|z) = prod_d N(x_d; mean_d(z), std^2), normalised: recon holds log std and 1/2 log 2 pi.

    Args:
        network: see above.
        std: as ``scale`` of LocationScaleLikelihood.
        mean_activation: ``sigmoid`` or ``identity``.
    """

    family, name, key, exponent = Gaussian, "gaussian", "std", 2

    def __init__(self, network: Callable[[int], nn.Module], std: float | str, mean_activation: str = "sigmoid") -> None:
        super().__init__(network, std, mean_activation)


class LaplaceLikelihood(LocationScaleLikelihood):
    """p(x|z) = prod_d exp(-|x_d - mean_d(z)| / scale) / (2 scale): the absolute error, normalised."""

    family, name = Laplace, "laplace"


class DiscretizedLogisticLikelihood(LocationScaleLikelihood):
    """P(x|z) of 8-bit pixels, see pixels.DiscretizedLogistic; its recon in bits/dim is recon / (D log 2)."""

    family, name, kinds, discrete = DiscretizedLogistic, "discretized logistic", ("learned", "per_pixel"), True


class BernoulliLikelihood(Likelihood):
    """p(x|z) = prod_d Bernoulli(x_d; sigmoid(logit_d(z))), Kingma & Welling 2014, https://arxiv.org/abs/1312.6114.

    Args:
        network: see above.
        image_shape: C, H, W.
        grey: the data are grey, so recon is the grey cross-entropy: allowed by name only, and so named in results.
        data_bias: add the logits of the training mean, clipped to [0.001, 0.999], to the network's (Burda et al. 2016,
            https://arxiv.org/abs/1509.00519, start the output bias there).
    """

    def __init__(
        self,
        network: Callable[[int], nn.Module],
        image_shape: Sequence[int],
        grey: bool = False,
        data_bias: bool = False,
    ) -> None:
        super().__init__(network)
        self.grey = grey
        self.description = "grey cross-entropy" if grey else "bernoulli"
        self.register_buffer("offset", torch.zeros(*image_shape) if data_bias else None)

    def start_from(self, images: Tensor, binarized: bool) -> None:
        """Refuses grey pixels that are not allowed by name, and binary ones that are named grey; sets the offset."""
        binary = binarized or is_binary(images)
        if not self.grey and not binary:
            raise ValueError(
                "likelihood=bernoulli: grey pixels are outside its support; must be with data.binarization=dynamic (or"
                " fixed, threshold), or by name with likelihood.grey=true, which reports grey cross-entropy"
            )
        if self.grey and binary:
            raise ValueError("likelihood.grey=true: must be false, as the pixels are only 0 and 1")
        if self.offset is not None:
            mean = images.float().mean(0) / 255
            self.offset.copy_(mean.clamp(0.001, 0.999).logit())

    def forward(self, z: Tensor, *condition: Tensor) -> Bernoulli:
        """z (K, B, L) -> p(x|z) with logits (K, B, C, H, W)."""
        logits = self.decode(z, *condition)
        return Bernoulli(logits if self.offset is None else logits + self.offset)


class ContinuousBernoulliLikelihood(Likelihood):
    """p(x|z) = prod_d C(lambda_d) lambda_d^x_d (1 - lambda_d)^(1 - x_d), see pixels.ContinuousBernoulli.

    Args:
        network: see above.
        clip: lambda is in (clip, 1 - clip), by a bounded logit A tanh(output / A), A = logit(1 - clip). At black pixels
            the density grows without bound as lambda goes to 0, so that a value means nothing without its clip.
    """

    def __init__(self, network: Callable[[int], nn.Module], clip: float) -> None:
        super().__init__(network)
        assert 0 < clip < 0.5
        self.bound = math.log((1 - clip) / clip)
        self.description = f"continuous bernoulli, lambda in ({clip:g}, {1 - clip:g})"

    def start_from(self, images: Tensor, binarized: bool) -> None:
        """Refuses pixels that are only 0 and 1: they have probabilities, not densities."""
        if binarized or is_binary(images):
            raise ValueError(
                "likelihood=continuous_bernoulli: must be with grey pixels, and these are only 0 and 1;"
                " take likelihood=bernoulli, or data.binarization=none"
            )

    def forward(self, z: Tensor, *condition: Tensor) -> ContinuousBernoulli:
        """z (K, B, L) -> p(x|z) with logits (K, B, C, H, W)."""
        return ContinuousBernoulli(self.bound * torch.tanh(self.decode(z, *condition) / self.bound))
