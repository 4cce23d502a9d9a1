"""The base class of the model's components: priors, likelihoods, posteriors and objectives."""

from jaxtyping import UInt8
from torch import Tensor, nn

from vae_lightning.checks.errors import ConfigError

IMAGES_AT_ONCE = 4096  # of a data set that may be larger than memory


class Component(nn.Module):
    """A component with optional hooks: a compatibility check and an initialization from data."""

    def check(self, encoder: nn.Module, prior: nn.Module, classes: int) -> None:
        """Raises ConfigError, with the reason, if this component is incompatible with the others.

        Args:
            encoder: the posterior.
            prior: the prior.
            classes: number of labels that the model conditions on; 0 if it is unconditional.
        """

    def start_from(self, images: UInt8[Tensor, "N C H W"], binarized: bool) -> None:
        """Initializes the component from the training images, before training.

        Raises ConfigError, with a suitable option, if the images are outside its support.

        Args:
            images: training images (N, C, H, W), uint8.
            binarized: whether the images are binarized before the model sees them.
        """


def is_binary(images: UInt8[Tensor, "N C H W"]) -> bool:
    """Returns whether all pixels of uint8 images are 0 or 255."""
    return all(bool(((part == 0) | (part == 255)).all()) for part in images.split(IMAGES_AT_ONCE))


def require_marginals(encoder: nn.Module, name: str, reason: str) -> None:
    """Raises ConfigError, for ``name`` and the reason, if a posterior has no closed marginals."""
    if not encoder.has_marginals:
        raise ConfigError(f"{name}: requires posterior=diagonal_normal or full_normal: {reason}")


def require_gray(name: str, images: UInt8[Tensor, "N C H W"], binarized: bool) -> None:
    """Raises ConfigError for binary images, which have probabilities instead of densities."""
    if binarized or is_binary(images):
        raise ConfigError(
            f"likelihood={name}: requires gray pixels, but all pixels are 0 or 1;"
            " use likelihood=bernoulli or data.binarization=none"
        )
