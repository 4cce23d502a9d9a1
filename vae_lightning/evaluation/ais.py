"""Estimates log p(x) by annealed importance sampling, which bounds it from both sides.

Neal 2001, https://arxiv.org/abs/physics/9803008; for decoder-based models Wu et al. 2017,
https://arxiv.org/abs/1611.04273; backwards, as bidirectional Monte Carlo, Grosse et al. 2015,
https://arxiv.org/abs/1511.02543.
Shapes: K chains, B images, L latent dimensions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from vae_lightning import rng
from vae_lightning.checks.errors import ConfigError
from vae_lightning.evaluation.batches import batch_slices
from vae_lightning.evaluation.latents import concatenate
from vae_lightning.evaluation.likelihood import decoded_at_once
from vae_lightning.networks import UNCONDITIONAL, Condition
from vae_lightning.training.module import EVALUATION_SEED, VAE
from vae_lightning.training.summary import log_normalizer

LEAPFROGS = 10  # steps of a Hamiltonian trajectory
ACCEPTANCE = 0.65  # the rate that a pilot run aims at; Wu et al. 2017
ADAPTATION = 1.1  # factor by which the pilot run changes a step size


class Bounds(NamedTuple):
    """Two estimates of log p(x) of images simulated by the model, in nats: (B,) each."""

    lower: Tensor  # its expectation is at most log p(x)
    upper: Tensor  # its expectation is at least log p(x)


class Transition(NamedTuple):
    """The result of a step of a Markov chain."""

    z: Tensor  # (K, B, L)
    accepted: Tensor  # (K, B)


@dataclass
class Path:
    """The densities f_t(z) = q(z|x)^(1 - t) [p(z) p(x|z)]^t of some images, for 0 <= t <= 1.

    The images go through the networks in batches, so that the memory is bounded. Raises ConfigError
    for a flow or a hierarchical posterior, whose density takes several passes at each step.
    """

    module: VAE
    x: Tensor  # (B, C, H, W)
    condition: Condition = UNCONDITIONAL
    step_sizes: dict[int, Tensor] = field(default_factory=dict)  # of each temperature: (B,)

    def __post_init__(self) -> None:
        if not self.module.encoder.has_marginals:
            raise ConfigError("method=ais: requires posterior=diagonal_normal or full_normal")
        with torch.no_grad():
            parts = batch_slices(len(self.x))
            self.posterior = concatenate(
                [self.module.encoder(self.x[part], self.condition.take(part)) for part in parts]
            )
            self.prior = self.module.prior(self.module.encoder)

    def parts(self, chains: int) -> list[slice]:
        """Returns the batches of images of which so many chains are decoded at once."""
        count, size = len(self.x), max(1, decoded_at_once(self.x) // chains)
        return [slice(start, start + size) for start in range(0, count, size)]

    def log_densities(self, z: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """Returns log q(z|x) and log p(x, z), without the likelihood's constant, of some images.

        z is (K, b, L) for the b images of a part; the result is (K, b) each.
        """
        recon = self.module.decoder(z, self.condition.take(part)).recon(self.x[part])
        return self.posterior.take(part).log_prob(z), self.prior.log_prob(z) - recon

    def log_ratio(self, z: Tensor) -> Tensor:
        """Returns log p(x, z) - log q(z|x), the derivative of log f_t with respect to t: (K, B)."""
        ratios = []
        with torch.no_grad():
            for part in self.parts(len(z)):
                log_q, log_joint = self.log_densities(z[:, part], part)
                ratios.append((log_joint - log_q).double())
        return torch.cat(ratios, dim=1)

    def slope(self, z: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """Returns log f_t(z), (K, B), and its gradient, (K, B, L)."""
        values, gradients = [], []
        for part in self.parts(len(z)):
            with torch.enable_grad():
                place = z[:, part].detach().requires_grad_()
                log_q, log_joint = self.log_densities(place, part)
                value = (1 - t) * log_q + t * log_joint
                (gradient,) = torch.autograd.grad(value.sum(), place)
            values.append(value.detach())
            gradients.append(gradient)
        return torch.cat(values, dim=1), torch.cat(gradients, dim=1)

    def move(self, z: Tensor, t: float, step: Tensor, generator: torch.Generator) -> Transition:
        """Takes one Hamiltonian Monte Carlo step, which leaves f_t invariant.

        Neal 2011, https://arxiv.org/abs/1206.1901.
        """
        momentum = torch.randn(z.shape, generator=generator, device=z.device, dtype=z.dtype)
        start, gradient = self.slope(z, t)
        energy = start - 0.5 * momentum.square().sum(-1)
        size, place = step.unsqueeze(-1), z
        momentum = momentum + 0.5 * size * gradient
        value = start
        for number in range(LEAPFROGS):
            place = place + size * momentum
            value, gradient = self.slope(place, t)
            momentum = momentum + (1.0 if number < LEAPFROGS - 1 else 0.5) * size * gradient
        change = value - 0.5 * momentum.square().sum(-1) - energy
        uniform = torch.rand(change.shape, generator=generator, device=z.device)
        accepted = uniform.log() < change.nan_to_num(-torch.inf)
        return Transition(torch.where(accepted.unsqueeze(-1), place, z), accepted)


def temperatures(steps: int) -> list[float]:
    """Returns t from 0 to 1 in ``steps`` steps, closer together near both ends."""
    return [0.5 * (1 - math.cos(math.pi * number / steps)) for number in range(steps + 1)]


def forward_run(
    path: Path, chains: int, times: Sequence[float], stream: str, adapt: bool = False
) -> Tensor:
    """Runs chains from q(z|x) to p(z|x); returns an estimate of log p(x), without constant: (B,).

    The estimate is the logarithm of a mean whose expectation is p(x). With ``adapt``, the run
    chooses the step sizes of ``path``; its own estimate is not to be used.
    """
    generator = rng.generator(path.x.device, EVALUATION_SEED, "ais", stream)
    shape = (chains, len(path.x), path.module.latent_dim)
    noise = torch.randn(shape, generator=generator, device=path.x.device)
    z = path.posterior.transform(noise)
    log_weight = torch.zeros(shape[:2], dtype=torch.float64, device=path.x.device)
    size = torch.full((len(path.x),), 0.1, device=path.x.device)
    for number in range(1, len(times)):
        before, t = times[number - 1], times[number]
        log_weight += (t - before) * path.log_ratio(z)
        if adapt:
            path.step_sizes[number] = size
        if number == len(times) - 1:
            break  # the weight does not depend on where the chains end
        z, accepted = path.move(z, t, path.step_sizes[number], generator)
        if adapt:
            rate = accepted.float().mean(0)
            size = size * torch.where(rate > ACCEPTANCE, ADAPTATION, 1 / ADAPTATION)
    return log_weight.logsumexp(0) - math.log(chains)


def backward_run(path: Path, z: Tensor, chains: int, times: Sequence[float], stream: str) -> Tensor:
    """Runs chains from exact samples z (B, L) of p(z|x) to q(z|x); the estimate of log p(x): (B,).

    It is minus the logarithm of a mean whose expectation is 1 / p(x).
    """
    generator = rng.generator(path.x.device, EVALUATION_SEED, "ais backwards", stream)
    z = z.expand(chains, *z.shape)
    log_weight = torch.zeros(z.shape[:2], dtype=torch.float64, device=path.x.device)
    for number in reversed(range(1, len(times))):
        before, t = times[number - 1], times[number]
        z, _ = path.move(z, t, path.step_sizes[number], generator)
        log_weight += (t - before) * path.log_ratio(z)
    return math.log(chains) - (-log_weight).logsumexp(0)


def log_p(
    module: VAE, x: Tensor, steps: int, chains: int, condition: Condition = UNCONDITIONAL
) -> Tensor:
    """Estimates log p(x) of images (B, C, H, W) in nats, with all constants: (B,), float64.

    The expectation is a lower bound. ``steps`` temperatures are visited by ``chains`` chains.
    """
    path, times = Path(module, x, condition), temperatures(steps)
    forward_run(path, chains, times, "pilot", adapt=True)
    return forward_run(path, chains, times, "run") - log_normalizer(module)


def simulated_bounds(
    module: VAE, images: int, steps: int, chains: int, condition: Condition = UNCONDITIONAL
) -> Bounds:
    """Bounds log p(x) of images drawn from the model, from both sides, in nats: (images,) each.

    The latent vector from which an image was drawn is an exact sample of p(z|x). The difference of
    the bounds shows how far ``steps`` and ``chains`` are from enough.
    """
    generator = rng.generator(module.device, EVALUATION_SEED, "ais simulation")
    with torch.no_grad():
        z = module.prior(module.encoder).sample(images, generator)
        x = torch.cat(
            [
                module.decoder(z[None, part], condition.take(part)).sample(generator)[0]
                for part in batch_slices(images)
            ]
        )
    path, times = Path(module, x, condition), temperatures(steps)
    forward_run(path, chains, times, "simulated pilot", adapt=True)
    lower = forward_run(path, chains, times, "simulated")
    upper = backward_run(path, z, chains, times, "simulated")
    constant = log_normalizer(module)
    return Bounds(lower - constant, upper - constant)
