"""Likelihoods p(x|z): modules that hold a decoder network and return a distribution over images.

Each distribution has ``mean`` (K, B, C, H, W) and ``recon(x)`` (K, B): the negative log density in nats, summed over
channels and pixels, less ``log_normalizer``, the constant that the loss leaves out. Shapes: K samples, B images, C H W.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from vae_lightning.distributions.normal import full_precision

MEAN_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"sigmoid": Tensor.sigmoid, "identity": lambda x: x}


@dataclass(frozen=True)
class SquaredError:
    """N(mean, 1/2 I): the density whose negative logarithm is the summed squared error plus (D/2) log pi."""

    mean: Tensor

    @property
    def log_normalizer(self) -> float:
        """(D/2) log pi nats, D = C * H * W: 448.7341 for 784 pixels."""
        return self.mean.shape[-3:].numel() / 2 * math.log(math.pi)

    def recon(self, x: Tensor) -> Tensor:
        """sum_d (x_d - mean_d)^2 for x (B, C, H, W): (K, B)."""
        return (x - self.mean).square().flatten(2).sum(-1)


class SquaredErrorLikelihood(nn.Module):
    """p(x|z) = N(mean(z), 1/2 I), the seed's likelihood: its loss term is the summed squared error.

    Args:
        network: called with the number of outputs per pixel (1), returns the decoder z (B, L) -> (B, C, H, W).
        mean_activation: ``sigmoid`` keeps the mean in (0, 1); ``identity`` leaves it free, as in probabilistic PCA.
    """

    description = "squared error"

    def __init__(self, network: Callable[[int], nn.Module], mean_activation: str = "sigmoid") -> None:
        super().__init__()
        if mean_activation not in MEAN_ACTIVATIONS:
            raise ValueError(
                f"likelihood.mean_activation={mean_activation}: must be one of {', '.join(MEAN_ACTIVATIONS)}"
            )
        self.network = network(1)
        self.mean_activation = mean_activation

    def forward(self, z: Tensor) -> SquaredError:
        """z (K, B, L) -> p(x|z) with mean (K, B, C, H, W)."""
        outputs = full_precision(self.network(z.flatten(0, 1)))
        return SquaredError(MEAN_ACTIVATIONS[self.mean_activation](outputs).unflatten(0, z.shape[:2]))


@dataclass(frozen=True)
class Bernoulli:
    """Independent Bernoulli pixels with the given logits (K, B, C, H, W)."""

    logits: Tensor
    log_normalizer = 0.0

    @property
    def mean(self) -> Tensor:
        """p(x_d = 1 | z) = sigmoid(logit_d): (K, B, C, H, W)."""
        return self.logits.sigmoid()

    def recon(self, x: Tensor) -> Tensor:
        """Cross-entropy sum_d [softplus(logit_d) - x_d logit_d] for x (B, C, H, W) in [0, 1]: (K, B).

        For x in {0, 1} it is -log p(x|z); for grey x it is the expected -log p over pixels binarised with
        probability x, a cross-entropy and not a likelihood of x.
        """
        return F.binary_cross_entropy_with_logits(
            self.logits, x.expand_as(self.logits), reduction="none"
        ).flatten(2).sum(-1)  # fmt: skip


class BernoulliLikelihood(nn.Module):
    """p(x|z) = prod_d Bernoulli(x_d; sigmoid(logit_d(z))), Kingma & Welling 2014, https://arxiv.org/abs/1312.6114.

    Args:
        network: called with the number of outputs per pixel (1), returns the decoder z (B, L) -> (B, C, H, W).
        grey: the data are grey, so recon is the grey cross-entropy: allowed by name only, and so named in results.
    """

    def __init__(self, network: Callable[[int], nn.Module], grey: bool = False) -> None:
        super().__init__()
        self.network = network(1)
        self.description = "grey cross-entropy" if grey else "bernoulli"

    def forward(self, z: Tensor) -> Bernoulli:
        """z (K, B, L) -> p(x|z) with logits (K, B, C, H, W)."""
        return Bernoulli(full_precision(self.network(z.flatten(0, 1))).unflatten(0, z.shape[:2]))
