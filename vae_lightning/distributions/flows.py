"""Normalizing flows: an inverse autoregressive flow posterior and a flow prior, built on zuko.

This is the only module that imports zuko. Flows are computed outside of autocast, because their log
determinants are part of densities.
Shapes: K samples, B images, L latent dimensions.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Protocol

import torch
import zuko
from jaxtyping import Float
from torch import Tensor, nn

from vae_lightning.checks.ranges import Integer, Integers, Option
from vae_lightning.distributions.normal import DiagonalNormal, StandardNormal, full_precision
from vae_lightning.distributions.posterior import PosteriorModule, estimated_mean, positive
from vae_lightning.networks.conditional import UNCONDITIONAL, Condition
from vae_lightning.networks.dense import LatentDim

Transforms = Annotated[int, Option("number of autoregressive transforms", Integer(1))]
FlowWidths = Annotated[list[int], Option("hidden widths of each transform", Integers(1))]


class Bijection(Protocol):
    """An invertible map of latent vectors, as zuko extends the Transform of torch.distributions."""

    @property
    def inv(self) -> "Bijection":
        """The inverse map."""
        ...

    def __call__(self, x: Float[Tensor, "*shape L"]) -> Float[Tensor, "*shape L"]:
        """Maps x (K, B, L) to (K, B, L)."""
        ...

    def call_and_ladj(
        self, x: Float[Tensor, "*shape L"]
    ) -> tuple[Float[Tensor, "*shape L"], Float[Tensor, "*shape"]]:
        """Returns the image of x (K, B, L) and the log determinants of the Jacobian, (K, B)."""
        ...


@dataclass
class Flow:
    """The density of z = bijection(z0), z0 ~ base: log q(z) = log base(z0) - log |det dz/dz0|."""

    base: DiagonalNormal
    bijection: Bijection
    make_detached: Callable[[], "Flow"]  # returns the same density without gradients to parameters
    # the last samples and their log density
    last_samples: tuple[Float[Tensor, "K B L"], Float[Tensor, "K B"]] | None = field(
        default=None, repr=False
    )

    def transform(self, noise: Float[Tensor, "K B L"]) -> Float[Tensor, "K B L"]:
        """Maps noise (K, B, L) to samples (K, B, L) in one pass, and stores their log density."""
        z0 = self.base.transform(noise)
        with torch.autocast(noise.device.type, enabled=False):
            z, log_det = self.bijection.call_and_ladj(z0)
        self.last_samples = z, self.base.log_prob(z0) - log_det
        return z

    def log_prob(self, z: Float[Tensor, "*shape L"]) -> Float[Tensor, "*shape"]:
        """Returns the log density of z (K, B, L) in nats: (K, B).

        It takes L sequential passes, or none if z is the last result of ``transform``.
        """
        if self.last_samples is not None and z is self.last_samples[0]:
            return self.last_samples[1]
        with torch.autocast(z.device.type, enabled=False):
            z0, log_det = self.bijection.inv.call_and_ladj(z)
        return self.base.log_prob(z0) + log_det

    @property
    def mean(self) -> Float[Tensor, "B L"]:
        """E_q[z|x], (B, L), see ``estimated_mean``."""
        with torch.autocast(self.base.mean.device.type, enabled=False):
            return estimated_mean(
                lambda noise: self.bijection(self.base.transform(noise)),
                self.base.mean,
                self.base.mean.shape[-1],
            )

    def marginals(self) -> None:
        """Returns None, because the marginals of a flow have no closed form."""
        return None

    def detach(self) -> "Flow":
        """Returns the same density without gradients to its parameters."""
        return self.make_detached()


class FlowPosterior(PosteriorModule):
    """q(z|x) is an inverse autoregressive flow, whose base is a diagonal normal distribution.

        z0 ~ N(mean(x), diag(std(x)^2)), then in each transform z_i <- z_i exp(a_i) + b_i

    a_i and b_i are functions of z_1, ..., z_{i-1} and of a context h(x). The order of the
    dimensions alternates between transforms. Sampling, including the density of the samples, takes
    one pass; the density of any other z takes L passes. Kingma et al. 2016,
    https://arxiv.org/abs/1606.04934.

    Args:
        network: called with the number of outputs; returns the encoder, which maps x (B, C, H, W)
            to (B, outputs).
        latent_dim: L.
        transforms: number of autoregressive transforms.
        hidden_dims: hidden widths of the network of each transform.
        context: size of h(x).
    """

    has_marginals = False

    def __init__(
        self,
        network: Callable[[int], nn.Module],
        latent_dim: LatentDim,
        transforms: Transforms,
        hidden_dims: FlowWidths,
        context: Annotated[
            int, Option("size of the encoder output that conditions each transform", Integer(1))
        ],
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.network = network(2 * latent_dim + context)
        flow = zuko.flows.MAF(
            latent_dim, context, transforms=transforms, hidden_features=hidden_dims
        )
        self.transform = flow.transform

    def forward(self, x: Float[Tensor, "B C H W"], condition: Condition = UNCONDITIONAL) -> Flow:
        """Returns q(z|x) of images x (B, C, H, W)."""
        outputs = full_precision(condition.apply(self.network, x))
        mean, raw_std = outputs[:, : 2 * self.latent_dim].chunk(2, dim=-1)
        base, context = DiagonalNormal(mean, positive(raw_std)), outputs[:, 2 * self.latent_dim :]
        with torch.autocast(x.device.type, enabled=False):
            return Flow(base, self.transform(context), lambda: self.detached(base, context))

    def detached(self, base: DiagonalNormal, context: Float[Tensor, "B context"]) -> Flow:
        """Returns q(z|x) without gradients to its parameters."""
        # a copy, because zuko evaluates the networks lazily, when the transform is called
        frozen = copy.deepcopy(self.transform).requires_grad_(False)
        flow = Flow(base.detach(), frozen(context.detach()), lambda: flow)
        return flow


@dataclass(frozen=True)
class FlowDensity:
    """The density p(z) = N(u; 0, I) |det du/dz| with u = transform(z)."""

    transform: Bijection
    base: StandardNormal

    def log_prob(self, z: Float[Tensor, "*shape L"]) -> Float[Tensor, "*shape"]:
        """Returns the log density of z (K, B, L) in nats, (K, B), in one pass."""
        with torch.autocast(z.device.type, enabled=False):
            u, log_det = self.transform.call_and_ladj(z)
        return self.base.log_prob(u) + log_det

    def sample(self, count: int, generator: torch.Generator) -> Float[Tensor, "{count} L"]:
        """Returns samples (count, L) on the generator's device, without gradient.

        It takes L sequential passes for each transform.
        """
        with torch.no_grad(), torch.autocast(generator.device.type, enabled=False):
            return self.transform.inv(self.base.sample(count, generator))


class FlowPrior(nn.Module):
    """p(z) is a masked autoregressive flow, whose base is N(0, I).

    Papamakarios et al. 2017, https://arxiv.org/abs/1705.07057. The density takes one pass.
    Flow priors of VAEs: Chen et al. 2017, https://arxiv.org/abs/1611.02731.

    Args:
        latent_dim: L.
        transforms: number of autoregressive transforms.
        hidden_dims: hidden widths of the network of each transform.
    """

    def __init__(
        self, latent_dim: LatentDim, transforms: Transforms, hidden_dims: FlowWidths
    ) -> None:
        super().__init__()
        self.base = StandardNormal(latent_dim)
        self.transform = zuko.flows.MAF(
            latent_dim, transforms=transforms, hidden_features=hidden_dims
        ).transform

    def forward(self, encoder: nn.Module) -> FlowDensity:
        """Returns the prior for the current parameters."""
        return FlowDensity(self.transform(None), self.base)
