"""Several stochastic layers: posteriors and priors whose layers depend on the layers above.

The latent vector z = (z_1, ..., z_n) consists of n layers, the top layer first.
Shapes: K samples, B images, L latent dimensions of all layers together, d of one layer.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Annotated, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vae_lightning.checks.errors import ConfigError
from vae_lightning.checks.ranges import Integer, Integers, Option
from vae_lightning.distributions.normal import (
    StandardNormal,
    full_precision,
    kl_diagonal_normals,
)
from vae_lightning.distributions.posterior import PosteriorModule, estimated_mean, positive
from vae_lightning.networks import dense
from vae_lightning.networks.conditional import UNCONDITIONAL, Condition
from vae_lightning.networks.dense import LatentDim, without_gradient

UpperDims = Annotated[
    list[int],
    Option("latent dimensions of the layers above the last one, from the top", Integers(1)),
]
LayerWidths = Annotated[
    list[int], Option("hidden widths of the network between two layers", Integers(1))
]


class Layer(NamedTuple):
    """N(mean, diag(std^2)) of one layer, which depends on the sample of the layers above."""

    mean: Float[Tensor, "K B d"]
    std: Float[Tensor, "K B d"]

    def log_prob(self, z: Float[Tensor, "K B d"]) -> Float[Tensor, "K B"]:
        """Returns the log density of z (K, B, d) in nats: (K, B)."""
        squares = ((z - self.mean) / self.std).square() + math.log(2 * math.pi)
        return -(0.5 * squares + self.std.log()).sum(-1)


@dataclass
class LayeredNormal:
    """The density prod_l N(z_l; mean_l, diag(std_l^2)), functions of z_1 ... z_(l-1).

    Attributes:
        sizes: latent dimensions of each layer.
        heads: functions of the context and the layers above, (..., inputs) to (..., 2 d); None for
            a layer N(0, I).
        context: (B, inputs), or None.
        make_detached: returns the same density without gradients to its parameters.
    """

    sizes: Sequence[int]
    heads: Sequence[Callable[[Tensor], Tensor] | None]
    context: Float[Tensor, "B inputs"] | None
    make_detached: Callable[[], "LayeredNormal"]
    # the last samples and the layers that they were drawn from, which log_prob and KL need again
    last_samples: tuple[Float[Tensor, "K B L"], list[Layer]] | None = field(
        default=None, repr=False
    )

    def layer(self, number: int, above: Float[Tensor, "K B above"]) -> Layer:
        """Returns the normal distribution of a layer given those above."""
        head = self.heads[number]
        if head is None:
            mean = above.new_zeros(*above.shape[:-1], self.sizes[number])
            return Layer(mean, torch.ones_like(mean))
        inputs = above
        if self.context is not None:
            inputs = torch.cat([self.context.expand(*above.shape[:-1], -1), above], dim=-1)
        mean, raw = full_precision(head(inputs)).chunk(2, dim=-1)
        return Layer(mean, positive(raw))

    def layers(self, z: Float[Tensor, "K B L"]) -> list[Layer]:
        """Returns the normal distributions of all layers, given the layers of z above each."""
        if self.last_samples is not None and z is self.last_samples[0]:
            return self.last_samples[1]
        starts = [0, *accumulate(self.sizes)]
        return [self.layer(number, z[..., : starts[number]]) for number in range(len(self.sizes))]

    def transform(self, noise: Float[Tensor, "K B L"]) -> Float[Tensor, "K B L"]:
        """Maps noise (K, B, L) to samples (K, B, L), layer by layer."""
        z, layers = noise[..., :0], []
        for number, eps in enumerate(noise.split(list(self.sizes), dim=-1)):
            layers.append(self.layer(number, z))
            z = torch.cat([z, layers[-1].mean + layers[-1].std * eps], dim=-1)
        self.last_samples = z, layers
        return z

    def log_prob(self, z: Float[Tensor, "K B L"]) -> Float[Tensor, "K B"]:
        """Returns the log density of z (K, B, L) in nats: (K, B)."""
        parts = zip(self.layers(z), z.split(list(self.sizes), dim=-1), strict=True)
        return torch.stack([layer.log_prob(part) for layer, part in parts]).sum(0)

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator) -> Float[Tensor, "{count} L"]:
        """Returns samples (count, L) on the generator's device, without gradient."""
        shape = (1, count, sum(self.sizes))
        noise = torch.randn(shape, generator=generator, device=generator.device)
        return self.transform(noise)[0]

    @property
    def mean(self) -> Float[Tensor, "B L"]:
        """E[z], (B, L), see ``estimated_mean``."""
        assert self.context is not None
        return estimated_mean(self.transform, self.context, sum(self.sizes))

    def marginals(self) -> None:
        """Returns None, because the marginals of the lower layers have no closed form."""
        return None

    def detach(self) -> "LayeredNormal":
        """Returns the same density without gradients to its parameters."""
        return self.make_detached()


def layer_kl_divergences(
    q: object, p: object, z: Float[Tensor, "K B L"]
) -> tuple[Float[Tensor, " B"], ...]:
    """Returns the KL of each layer of q and p in nats, (B,) each, from the top; their sum is KL.

    KL_l = E_q[KL(q(z_l | z_<l, x) || p(z_l | z_<l))], in closed form given the layers above, which
    are the samples z (K, B, L) of q. Empty if q has no layers, or p not the same ones.
    """
    if not isinstance(q, LayeredNormal):
        return ()
    if isinstance(p, StandardNormal):
        p = LayeredNormal(q.sizes, [None] * len(q.sizes), None, q.detach)
    if not isinstance(p, LayeredNormal) or list(p.sizes) != list(q.sizes):
        return ()
    return tuple(
        kl_diagonal_normals(own.mean, own.std, other.mean, other.std).mean(0)
        for own, other in zip(q.layers(z), p.layers(z), strict=True)
    )


def layer_sizes(latent_dim: int, upper_dims: Sequence[int], key: str) -> list[int]:
    """Returns the latent dimensions of all layers; raises ConfigError if none are left."""
    last = latent_dim - sum(upper_dims)
    if last < 1:
        raise ConfigError(
            f"{key}.upper_dims={list(upper_dims)}: must add up to less than"
            f" model.latent_dim={latent_dim}"
        )
    return [*upper_dims, last]


def make_heads(sizes: Sequence[int], inputs: int, hidden_dims: Sequence[int]) -> nn.ModuleList:
    """Returns the networks of the layers: (inputs + dimensions above) to 2 d."""
    starts = [0, *accumulate(sizes[:-1])]
    pairs = zip(starts, sizes, strict=True)
    widths = [[inputs + start, *hidden_dims, 2 * size] for start, size in pairs]
    return nn.ModuleList(dense(each, "silu") if each[0] else nn.Identity() for each in widths)


class HierarchicalPosterior(PosteriorModule):
    """q(z|x) = q(z_1|x) q(z_2|x, z_1) ... with normal layers, the top layer first.

    The encoder network computes a context of x, from which a network of each layer, together with
    the layers above, computes mean and std. The order of the layers is that of the prior, as in
    the top-down posterior of Sonderby et al. 2016, https://arxiv.org/abs/1602.02282.

    Args:
        network: called with the size of the context; returns the encoder network.
        latent_dim: L, all layers together.
        upper_dims: latent dimensions of the layers above the last one, from the top.
        hidden_dims: hidden widths of the network of each layer.
        context: size of the context.
    """

    has_marginals = False

    def __init__(
        self,
        network: Callable[[int], nn.Module],
        latent_dim: LatentDim,
        upper_dims: UpperDims,
        hidden_dims: LayerWidths,
        context: Annotated[int, Option("size of the encoder output", Integer(1))],
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.sizes = layer_sizes(latent_dim, upper_dims, "posterior")
        self.network = network(context)
        self.heads = make_heads(self.sizes, context, hidden_dims)

    def forward(
        self, x: Float[Tensor, "B C H W"], condition: Condition = UNCONDITIONAL
    ) -> LayeredNormal:
        """Returns q(z|x) of images x (B, C, H, W)."""
        context = full_precision(condition.apply(self.network, x))
        return LayeredNormal(self.sizes, list(self.heads), context, lambda: self.detached(context))

    def detached(self, context: Float[Tensor, "B context"]) -> LayeredNormal:
        """Returns q(z|x) without gradients to its parameters."""
        heads = [without_gradient(head) for head in self.heads]
        found = LayeredNormal(self.sizes, heads, context.detach(), lambda: found)
        return found


class HierarchicalPrior(nn.Module):
    """p(z) = p(z_1) p(z_2|z_1) ..., N(0, I) at the top and normal layers below.

    Args:
        latent_dim: L, all layers together.
        upper_dims: latent dimensions of the layers above the last one, from the top.
        hidden_dims: hidden widths of the network of each layer.
    """

    def __init__(
        self, latent_dim: LatentDim, upper_dims: UpperDims, hidden_dims: LayerWidths
    ) -> None:
        super().__init__()
        self.sizes = layer_sizes(latent_dim, upper_dims, "prior")
        self.heads = make_heads(self.sizes, 0, hidden_dims)

    def forward(self, encoder: nn.Module) -> LayeredNormal:
        """Returns the prior for the current parameters."""
        found = LayeredNormal(self.sizes, [None, *self.heads[1:]], None, lambda: found)
        return found
