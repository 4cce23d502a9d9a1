"""Normalizing flows, by zuko, behind this package's classes: an inverse autoregressive posterior and a flow prior.

Apart from the others because it alone imports zuko. Flows compute outside of autocast: their log determinants are
densities. Shapes: K samples, B images, L latent dimensions.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import zuko
from torch import Tensor, nn
from torch.distributions import Transform

from vae_lightning.distributions.normal import DiagonalNormal, StandardNormal, full_precision
from vae_lightning.distributions.posterior import positive

MEAN_SAMPLES = 256  # draws behind the mean of a flow posterior


@dataclass
class Flow:
    """The density of z = transform(z0), z0 ~ base: log q(z) = log base(z0) - log |det dz/dz0|."""

    base: DiagonalNormal
    transform: Transform
    constant: Callable[[], "Flow"]  # makes the same with constant parameters
    drawn: tuple[Tensor, Tensor] | None = field(default=None, repr=False)  # the last samples and their log density

    def rsample(self, noise: Tensor) -> Tensor:
        """noise (K, B, L) -> samples (K, B, L) in one pass; their log density comes with them."""
        start = self.base.rsample(noise)
        with torch.autocast(noise.device.type, enabled=False):
            z, log_det = self.transform.call_and_ladj(start)
        self.drawn = z, self.base.log_prob(start) - log_det
        return z

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of z (K, B, L) in nats, (K, B): L passes in sequence, none for what was just drawn."""
        if self.drawn is not None and z is self.drawn[0]:
            return self.drawn[1]
        with torch.autocast(z.device.type, enabled=False):
            start, log_det = self.transform.inv.call_and_ladj(z)
        return self.base.log_prob(start) + log_det

    @property
    def mean(self) -> Tensor:
        """E_q[z|x] by MEAN_SAMPLES fixed draws, (B, L)."""
        shape = (MEAN_SAMPLES, *self.base.mean.shape)
        generator = torch.Generator(self.base.mean.device).manual_seed(0)
        noise = torch.randn(shape, generator=generator, device=generator.device, dtype=self.base.mean.dtype)
        with torch.autocast(noise.device.type, enabled=False):
            return self.transform(self.base.rsample(noise)).mean(0)

    def detach(self) -> "Flow":
        """The same, its parameters being constants."""
        return self.constant()


class FlowPosterior(nn.Module):
    """q(z|x) by an inverse autoregressive flow: z0 ~ N(mean(x), diag(std(x)^2)), then z_i <- z_i exp(a_i) + b_i.

    a_i and b_i are functions of z_1, ..., z_{i-1} and of a context h(x), in alternating order. Sampling with the
    density is one pass; the density of another z is L. Kingma et al. 2016, https://arxiv.org/abs/1606.04934.

    Args:
        network: called with the number of outputs, returns the encoder: x (B, C, H, W) -> (B, outputs).
        latent_dim: L.
        transforms: autoregressive steps.
        hidden_dims: widths of the network in each.
        context: size of h(x).
    """

    sequential = True  # the density of a z that it did not draw itself takes L passes

    def __init__(
        self,
        network: Callable[[int], nn.Module],
        latent_dim: int,
        transforms: int,
        hidden_dims: list[int],
        context: int,
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.network = network(2 * latent_dim + context)
        flow = zuko.flows.MAF(latent_dim, context, transforms=transforms, hidden_features=hidden_dims)
        self.transform = flow.transform

    def forward(self, x: Tensor, *condition: Tensor) -> Flow:
        """x (B, C, H, W) -> q(z|x)."""
        outputs = full_precision(self.network(x, *condition))
        mean, raw_std = outputs[:, : 2 * self.latent_dim].chunk(2, dim=-1)
        base, context = DiagonalNormal(mean, positive(raw_std)), outputs[:, 2 * self.latent_dim :]
        with torch.autocast(x.device.type, enabled=False):
            return Flow(base, self.transform(context), lambda: self.constant(base, context))

    def constant(self, base: DiagonalNormal, context: Tensor) -> Flow:
        """q(z|x) with constant parameters."""
        # a copy: zuko's transforms call their networks only when they are themselves called
        frozen = copy.deepcopy(self.transform).requires_grad_(False)
        flow = Flow(base.detach(), frozen(context.detach()), lambda: flow)
        return flow


@dataclass(frozen=True)
class FlowDensity:
    """p(z) = N(u; 0, I) |det du/dz| for u = transform(z)."""

    transform: Transform
    base: StandardNormal

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of z (K, B, L) in nats, (K, B), in one pass."""
        with torch.autocast(z.device.type, enabled=False):
            u, log_det = self.transform.call_and_ladj(z)
        return self.base.log_prob(u) + log_det

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draws on the generator's device, no gradient: (count, L), in L passes for each transform."""
        with torch.no_grad(), torch.autocast(generator.device.type, enabled=False):
            return self.transform.inv(self.base.sample(count, generator))


class FlowPrior(nn.Module):
    """p(z) by a masked autoregressive flow, Papamakarios et al. 2017, https://arxiv.org/abs/1705.07057.

    Its density is one pass, as an autoregressive prior under an inverse autoregressive posterior would have it (Chen et
    al. 2017, https://arxiv.org/abs/1611.02731).

    Args:
        latent_dim: L.
        transforms: autoregressive steps.
        hidden_dims: widths of the network in each.
    """

    def __init__(self, latent_dim: int, transforms: int, hidden_dims: list[int]) -> None:
        super().__init__()
        self.base = StandardNormal(latent_dim)
        self.transform = zuko.flows.MAF(latent_dim, transforms=transforms, hidden_features=hidden_dims).transform

    def forward(self, encoder: nn.Module) -> FlowDensity:
        """The prior as it is now."""
        return FlowDensity(self.transform(None), self.base)
