"""2. KL divergences of normals: against the general formula, quadrature and Monte Carlo.

KL(N(m0, S0) || N(m1, S1)) = 1/2 [tr(S1^-1 S0) + (m1 - m0)' S1^-1 (m1 - m0) - L + log |S1| / |S0|].
"""

import torch
from torch import Tensor

from vae_lightning.distributions import (
    DiagonalNormal,
    FullNormal,
    Mixture,
    StandardNormal,
    kl_diagonal_normals,
    kl_full_to_standard_normal,
    kl_to_standard_normal,
)
from vae_lightning.identities.bound import IMAGES, LATENTS, some_posteriors
from vae_lightning.identities.row import Row, normal, sampled, worst
from vae_lightning.objectives import Terms
from vae_lightning.quadrature import Grid

SAMPLES = 20_000


def matrix_formula(mean0: Tensor, cov0: Tensor, mean1: Tensor, cov1: Tensor) -> Tensor:
    """The formula above for means (B, L) and covariances (B, L, L): (B,)."""
    inverse, difference = cov1.inverse(), mean1 - mean0
    trace = (inverse @ cov0).diagonal(dim1=-2, dim2=-1).sum(-1)
    distance = torch.einsum("bi,bij,bj->b", difference, inverse, difference)
    return 0.5 * (trace + distance - mean0.shape[-1] + cov1.logdet() - cov0.logdet())


def divergences() -> list[Row]:
    """Every closed form, and the estimate where there is none."""
    diagonal, full = some_posteriors().values()
    other = DiagonalNormal(normal("p mean", IMAGES, LATENTS), 0.3 + normal("p std", IMAGES, LATENTS).abs() / 2)
    standard = DiagonalNormal(torch.zeros_like(other.mean), torch.ones_like(other.std))
    covariance = full.scale_tril @ full.scale_tril.mT

    def expected(p: DiagonalNormal, mean: Tensor, cov: Tensor) -> Tensor:
        return matrix_formula(mean, cov, p.mean, torch.diag_embed(p.std**2))

    closed = kl_to_standard_normal(diagonal.mean, diagonal.std)
    own = torch.diag_embed(diagonal.std**2)
    return [
        worst("the seed's -1/2 sum(1 + 2 log std - mean^2 - std^2) = the formula of matrices", closed,
              expected(standard, diagonal.mean, own)),
        worst("KL of diagonal normals = the formula of matrices",
              kl_diagonal_normals(diagonal.mean, diagonal.std, other.mean, other.std),
              expected(other, diagonal.mean, own)),
        worst("KL(full normal || N(0, I)) = the formula of matrices",
              kl_full_to_standard_normal(full.mean, full.scale_tril), expected(standard, full.mean, covariance)),
        *by_quadrature(),
        by_sampling("the seed's formula = mean of log q - log p over samples", diagonal, closed),
        by_sampling("KL(full normal || N(0, I)) = mean of log q - log p over samples", full,
                    kl_full_to_standard_normal(full.mean, full.scale_tril)),
    ]  # fmt: skip


def by_sampling(says: str, q: DiagonalNormal | FullNormal, expected: Tensor) -> Row:
    """KL(q || N(0, I)) as the mean over samples of the terms that a loss without a closed form would use."""
    z = q.rsample(normal("kl samples", SAMPLES, IMAGES, LATENTS))
    terms = Terms(torch.zeros(SAMPLES, IMAGES), z, q, StandardNormal(LATENTS))
    return sampled(says, terms.log_q - terms.log_p, expected)


def by_quadrature() -> list[Row]:
    """KL as the integral of q log(q/p), and to a mixture, which has no closed form: Terms.kl is then an estimate."""
    diagonal, full = (q.take(torch.arange(3)) for q in some_posteriors().values())
    grid = Grid.cube(16, LATENTS, 601)
    z = grid.points.unsqueeze(1)
    standard = StandardNormal(LATENTS)
    mixture = Mixture(torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log(), diagonal)

    def integral(q: DiagonalNormal | FullNormal, log_p: Tensor) -> Tensor:
        log_q = q.log_prob(z)
        return grid.integral(log_q.exp() * (log_q - log_p))

    noise = normal("mixture samples", SAMPLES, 3, LATENTS)
    estimates = torch.stack([
        Terms(torch.zeros(1, 3), full.rsample(eps), full, mixture).kl for eps in noise.split(100)
    ])  # fmt: skip
    return [
        worst("the seed's formula = integral of q log(q/p)", kl_to_standard_normal(diagonal.mean, diagonal.std),
              integral(diagonal, standard.log_prob(z)), 1e-8),
        worst("KL(full normal || N(0, I)) = integral of q log(q/p)",
              kl_full_to_standard_normal(full.mean, full.scale_tril), integral(full, standard.log_prob(z)), 1e-8),
        sampled("KL(full normal || mixture): its estimate by 100 samples = the integral", estimates,
                integral(full, mixture.log_prob(z))),
    ]  # fmt: skip
