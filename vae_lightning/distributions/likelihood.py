"""Likelihoods p(x|z): modules that hold a decoder network and return a distribution over images.

The distributions are in pixels.py. Every likelihood takes the argument ``network``: a function that
is called with the number of outputs per pixel and returns the decoder, which maps z (B, L) to
(B, outputs * C, H, W). In a conditional model, the labels are passed to the decoder.
Shapes: K samples, B images, L latent dimensions, C H W of an image.
"""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from vae_lightning.checks.errors import ConfigError
from vae_lightning.checks.ranges import AnyOf, Boolean, Choice, Number, Option
from vae_lightning.distributions.component import (
    IMAGES_AT_ONCE,
    Component,
    is_binary,
    require_gray,
)
from vae_lightning.distributions.normal import full_precision
from vae_lightning.distributions.pixels import (
    Bernoulli,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    Laplace,
    SquaredError,
)
from vae_lightning.distributions.scale import (
    LEVEL_SCALE_FLOOR,
    SCALE_FLOOR,
    FixedScale,
    LocationScale,
    RecordsResiduals,
    make_scale,
)
from vae_lightning.networks.conditional import UNCONDITIONAL, Condition

MEAN_ACTIVATIONS: dict[str, type[nn.Module]] = {"sigmoid": nn.Sigmoid, "identity": nn.Identity}

SCALE_TEXT = "a number: fixed; learned: one parameter; per_pixel: an output of the network"
MeanActivation = Annotated[str, Option("activation of the mean", Choice(tuple(MEAN_ACTIVATIONS)))]
ANY_SCALE = AnyOf((Number(above=0), Choice(("learned", "optimal", "per_pixel"))))
ScaleOption = Annotated[
    float | str,
    Option(f"scale of the pixels; {SCALE_TEXT}; optimal: scale of the residuals", ANY_SCALE),
]
StdOption = Annotated[
    float | str,
    Option(f"std of the pixels; {SCALE_TEXT}; optimal: std of the residuals", ANY_SCALE),
]
LEVEL_SCALE = AnyOf((Number(above=0), Choice(("learned", "per_pixel"))))
LevelScale = Annotated[float | str, Option(f"scale of the logistic; {SCALE_TEXT}", LEVEL_SCALE)]
Clip = Annotated[float, Option("lambda lies in (clip, 1 - clip)", Number(above=0, below=0.5))]


class Likelihood(Component):
    """Base class of likelihoods.

    Attributes:
        description: name of the likelihood in results.
        discrete: whether recon is a negative log probability of 8-bit pixels, so that it can be
            expressed in bits/dim.
        is_normalized: whether p(x|z) is a density or a probability of the images, so that log p(x)
            is defined.
    """

    network: nn.Module
    description: str
    discrete = False
    is_normalized = True

    def __init__(self, network: Callable[[int], nn.Module], outputs: int = 1) -> None:
        super().__init__()
        self.network = network(outputs)

    def decode(
        self, z: Float[Tensor, "K B L"], condition: Condition = UNCONDITIONAL
    ) -> Float[Tensor, "K B outputs H W"]:
        """Returns the decoder's outputs for z (K, B, L), in float32 or float64.

        Their shape is (K, B, outputs * C, H, W).
        """
        outputs = full_precision(condition.apply(self.network, z.flatten(0, 1)))
        return outputs.view(*z.shape[:2], *outputs.shape[1:])  # three times as fast as unflatten


def mean_activation_of(name: str) -> nn.Module:
    """Returns the layer of this name; raises ConfigError if it is not in MEAN_ACTIVATIONS."""
    if name not in MEAN_ACTIVATIONS:
        raise ConfigError(
            f"likelihood.mean_activation={name}: must be one of {', '.join(MEAN_ACTIVATIONS)}"
        )
    return MEAN_ACTIVATIONS[name]()


class SquaredErrorLikelihood(Likelihood):
    """p(x|z) = N(mean(z), 1/2 I), the default. The reconstruction term is the summed squared error.

    Args:
        network: called with the number of outputs per pixel; returns the decoder.
        mean_activation: ``sigmoid`` keeps the mean in (0, 1); ``identity`` does not restrict it, as
            in probabilistic PCA.
    """

    description = "squared error"

    def __init__(
        self, network: Callable[[int], nn.Module], mean_activation: MeanActivation = "sigmoid"
    ) -> None:
        super().__init__(network)
        self.mean_activation = mean_activation
        self.activate = mean_activation_of(mean_activation)

    def forward(
        self, z: Float[Tensor, "K B L"], condition: Condition = UNCONDITIONAL
    ) -> SquaredError:
        """Returns p(x|z) with mean (K, B, C, H, W) for z (K, B, L)."""
        return SquaredError(self.activate(self.decode(z, condition)))


class LocationScaleLikelihood(Likelihood):
    """p(x|z) of independent pixels with location(z) and one of four kinds of scale.

    Args:
        network: called with the number of outputs per pixel; returns the decoder.
        scale: a number > 0 is a fixed scale; ``learned`` is one parameter for all pixels;
            ``per_pixel`` is a second output of the decoder; ``optimal`` is the maximum-likelihood
            scale of the residuals in closed form, as a running mean over batches (sigma-VAE, Rybkin
            et al. 2021, https://arxiv.org/abs/2006.13202). Every scale that is not fixed is at
            least ``floor``.
        mean_activation: activation of the location, ``sigmoid`` or ``identity``.
    """

    family: ClassVar[type[Gaussian] | type[Laplace] | type[DiscretizedLogistic]]
    name: ClassVar[str]
    key: ClassVar[str] = "scale"
    kinds: ClassVar[tuple[str, ...]] = ("learned", "optimal", "per_pixel")
    exponent: ClassVar[int] = 1  # the optimal scale is E[|residual|^exponent]^(1 / exponent)
    floor: ClassVar[float] = SCALE_FLOOR

    def __init__(
        self,
        network: Callable[[int], nn.Module],
        scale: ScaleOption,
        mean_activation: MeanActivation = "sigmoid",
    ) -> None:
        scale_module = make_scale(scale, self.kinds, self.key, self.exponent, self.floor)
        super().__init__(network, scale_module.outputs_per_pixel)
        self.scale = scale_module
        self.activate = mean_activation_of(mean_activation)
        at_least = "" if isinstance(scale_module, FixedScale) else f", at least {self.floor:g}"
        self.description = f"{self.name}, {self.key} {scale}{at_least}".replace("_", " ")

    def start_from(self, images: UInt8[Tensor, "N C H W"], binarized: bool) -> None:
        """Raises ConfigError for binary images, if this is a density."""
        if not self.discrete:
            require_gray(self.name, images, binarized)

    def forward(
        self, z: Float[Tensor, "K B L"], condition: Condition = UNCONDITIONAL
    ) -> LocationScale | RecordsResiduals:
        """Returns p(x|z) with location (K, B, C, H, W) for z (K, B, L)."""
        location, scale = self.scale(self.decode(z, condition))
        return self.scale.observe(self.family(self.activate(location), scale))


class GaussianLikelihood(LocationScaleLikelihood):
    """p(x|z) = prod_d N(x_d; mean_d(z), std^2), normalized: recon includes log std + 1/2 log 2 pi.

    Args:
        network: called with the number of outputs per pixel; returns the decoder.
        std: the standard deviation, see ``scale`` of LocationScaleLikelihood.
        mean_activation: activation of the mean, ``sigmoid`` or ``identity``.
    """

    family, name, key, exponent = Gaussian, "gaussian", "std", 2

    def __init__(
        self,
        network: Callable[[int], nn.Module],
        std: StdOption,
        mean_activation: MeanActivation = "sigmoid",
    ) -> None:
        super().__init__(network, std, mean_activation)


class LaplaceLikelihood(LocationScaleLikelihood):
    """p(x|z) = prod_d exp(-|x_d - mean_d(z)| / scale) / (2 scale)."""

    family, name = Laplace, "laplace"


class DiscretizedLogisticLikelihood(LocationScaleLikelihood):
    """P(x|z) of 8-bit pixels, see pixels.DiscretizedLogistic; bits/dim = recon / (D log 2).

    A location in (0, 1), as ``mean_activation=sigmoid`` gives, is never at the levels 0 and 255,
    which most pixels of MNIST have. Therefore the default is ``identity``.
    """

    family, name, discrete = DiscretizedLogistic, "discretized logistic", True
    kinds, floor = ("learned", "per_pixel"), LEVEL_SCALE_FLOOR

    def __init__(
        self,
        network: Callable[[int], nn.Module],
        scale: LevelScale,
        mean_activation: MeanActivation = "identity",
    ) -> None:
        super().__init__(network, scale, mean_activation)


class BernoulliLikelihood(Likelihood):
    """p(x|z) = prod_d Bernoulli(x_d; sigmoid(logit_d(z))).

    Kingma & Welling 2014, https://arxiv.org/abs/1312.6114.

    Args:
        network: called with the number of outputs per pixel; returns the decoder.
        image_shape: C, H, W.
        gray: allows gray pixels. The reconstruction term is then the gray cross-entropy, which is
            not a likelihood of gray pixels; results use this name.
        data_bias: adds the logits of the mean training image, clipped to [0.001, 0.999], to the
            decoder's logits. Burda et al. 2016, https://arxiv.org/abs/1509.00519, initialize the
            output bias with these logits.
    """

    offset: Float[Tensor, "C H W"] | None

    def __init__(
        self,
        network: Callable[[int], nn.Module],
        image_shape: Sequence[int],
        gray: Annotated[
            bool, Option("allow gray pixels; results then report a gray cross-entropy", Boolean())
        ] = False,
        data_bias: Annotated[
            bool, Option("add the logits of the training mean to the output", Boolean())
        ] = False,
    ) -> None:
        super().__init__(network)
        self.gray = gray
        self.is_normalized = not gray
        self.description = "gray cross-entropy" if gray else "bernoulli"
        self.register_buffer("offset", torch.zeros(*image_shape) if data_bias else None)

    def start_from(self, images: UInt8[Tensor, "N C H W"], binarized: bool) -> None:
        """Checks that the images are binary, or gray with ``gray=true``; sets the offset."""
        binary = binarized or is_binary(images)
        if not self.gray and not binary:
            raise ConfigError(
                "likelihood=bernoulli: requires data.binarization=dynamic, fixed or threshold, or"
                " likelihood.gray=true, which reports a gray cross-entropy: gray pixels are outside"
                " the support of the Bernoulli distribution"
            )
        if self.gray and binary:
            raise ConfigError("likelihood.gray=true: must be false, because all pixels are 0 or 1")
        if self.offset is not None:
            sums = [part.sum(0, dtype=torch.int64) for part in images.split(IMAGES_AT_ONCE)]
            mean = torch.stack(sums).sum(0) / (255 * len(images))
            self.offset.copy_(mean.clamp(0.001, 0.999).logit())

    def forward(self, z: Float[Tensor, "K B L"], condition: Condition = UNCONDITIONAL) -> Bernoulli:
        """Returns p(x|z) with logits (K, B, C, H, W) for z (K, B, L)."""
        logits = self.decode(z, condition)
        return Bernoulli(logits if self.offset is None else logits + self.offset)


class ContinuousBernoulliLikelihood(Likelihood):
    """p(x|z) = prod_d C(lambda_d) lambda_d^x_d (1 - lambda_d)^(1 - x_d).

    See pixels.ContinuousBernoulli.

    Args:
        network: called with the number of outputs per pixel; returns the decoder.
        clip: restricts lambda to (clip, 1 - clip): the logit is A tanh(output / A) with
            A = logit(1 - clip). At black pixels the density is unbounded as lambda approaches 0, so
            values with different clips are not comparable.
    """

    def __init__(self, network: Callable[[int], nn.Module], clip: Clip) -> None:
        super().__init__(network)
        assert 0 < clip < 0.5
        self.bound = math.log((1 - clip) / clip)
        self.description = f"continuous bernoulli, lambda in ({clip:g}, {1 - clip:g})"

    def start_from(self, images: UInt8[Tensor, "N C H W"], binarized: bool) -> None:
        """Raises ConfigError for binary images."""
        require_gray("continuous_bernoulli", images, binarized)

    def forward(
        self, z: Float[Tensor, "K B L"], condition: Condition = UNCONDITIONAL
    ) -> ContinuousBernoulli:
        """Returns p(x|z) with logits (K, B, C, H, W) for z (K, B, L)."""
        return ContinuousBernoulli(self.bound * torch.tanh(self.decode(z, condition) / self.bound))
