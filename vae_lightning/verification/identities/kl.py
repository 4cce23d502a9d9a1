"""2. KL divergences of normals, checked against the matrix formula, quadrature and Monte Carlo.

The matrix formula is

    KL(N(m0, S0) || N(m1, S1))
        = 1/2 [tr(S1^-1 S0) + (m1 - m0)' S1^-1 (m1 - m0) - L + log |S1| / |S0|]

Shapes: B images, L latent dimensions, P points of a grid.
"""

import torch
from torch import Tensor

from vae_lightning.distributions import (
    DiagonalNormal,
    FullNormal,
    LayeredNormal,
    Mixture,
    StandardNormal,
    kl_diagonal_normals,
    kl_full_to_standard_normal,
    kl_to_standard_normal,
)
from vae_lightning.objectives import Terms
from vae_lightning.verification.identities.bound import IMAGES, LATENTS, some_posteriors
from vae_lightning.verification.identities.row import Row, equality, monte_carlo, normal
from vae_lightning.verification.quadrature import Grid

SAMPLES = 20_000


def matrix_formula(mean0: Tensor, cov0: Tensor, mean1: Tensor, cov1: Tensor) -> Tensor:
    """Returns the matrix formula for means (B, L) and covariances (B, L, L): (B,)."""
    inverse, difference = cov1.inverse(), mean1 - mean0
    trace = (inverse @ cov0).diagonal(dim1=-2, dim2=-1).sum(-1)
    distance = torch.einsum("bi,bij,bj->b", difference, inverse, difference)
    return 0.5 * (trace + distance - mean0.shape[-1] + cov1.logdet() - cov0.logdet())


def divergences() -> list[Row]:
    """Checks every closed form, and the Monte Carlo estimate that is used without one."""
    diagonal, full = some_posteriors()
    other = DiagonalNormal(
        normal("p mean", IMAGES, LATENTS), 0.3 + normal("p std", IMAGES, LATENTS).abs() / 2
    )
    standard = DiagonalNormal(torch.zeros_like(other.mean), torch.ones_like(other.std))
    covariance = full.scale_tril @ full.scale_tril.mT

    def expected(p: DiagonalNormal, mean: Tensor, cov: Tensor) -> Tensor:
        return matrix_formula(mean, cov, p.mean, torch.diag_embed(p.std**2))

    closed = kl_to_standard_normal(diagonal.mean, diagonal.std)
    own = torch.diag_embed(diagonal.std**2)
    return [
        equality(
            "-1/2 sum(1 + 2 log std - mean^2 - std^2) = matrix formula",
            closed,
            expected(standard, diagonal.mean, own),
        ),
        equality(
            "KL of diagonal normals = matrix formula",
            kl_diagonal_normals(diagonal.mean, diagonal.std, other.mean, other.std),
            expected(other, diagonal.mean, own),
        ),
        equality(
            "KL(full normal || N(0, I)) = matrix formula",
            kl_full_to_standard_normal(full.mean, full.scale_tril),
            expected(standard, full.mean, covariance),
        ),
        *by_quadrature(),
        of_layers(),
        by_sampling(
            "KL(diagonal normal || N(0, I)) = mean of log q - log p over samples", diagonal, closed
        ),
        by_sampling(
            "KL(full normal || N(0, I)) = mean of log q - log p over samples",
            full,
            kl_full_to_standard_normal(full.mean, full.scale_tril),
        ),
    ]


def of_layers() -> Row:
    """Checks the sum of the KL of two layers, whose means are not linear in the layer above."""

    def second(inputs: Tensor) -> Tensor:
        """The mean and the std, before softplus, of z_2 given all inputs."""
        total = inputs.sum(-1, keepdim=True)
        return torch.cat([total.sin(), 0.3 * total], dim=-1)

    context = normal("layers", 3, 2)
    q = LayeredNormal([1, 1], [lambda inputs: inputs, second], context, lambda: q)
    p = LayeredNormal([1, 1], [None, lambda above: second(above.square())], None, lambda: p)
    grid = Grid.cube(16, LATENTS, 601)
    z = grid.points.unsqueeze(1).expand(-1, 3, -1)
    log_q = q.log_prob(z)
    noise = normal("layer samples", SAMPLES, 3, LATENTS)
    estimates = torch.stack(
        [Terms(torch.zeros(len(eps), 3), q.transform(eps), q, p).kl for eps in noise.split(100)]
    )
    return monte_carlo(
        "KL of two layers, 100-sample estimate of its sum over layers = integral of q log(q/p)",
        estimates,
        grid.integral(log_q.exp() * (log_q - p.log_prob(z))),
    )


def by_sampling(statement: str, q: DiagonalNormal | FullNormal, expected: Tensor) -> Row:
    """Checks KL(q || N(0, I)) against the Monte Carlo estimate of a loss without a closed form."""
    z = q.transform(normal("kl samples", SAMPLES, IMAGES, LATENTS))
    terms = Terms(torch.zeros(SAMPLES, IMAGES), z, q, StandardNormal(LATENTS))
    return monte_carlo(statement, terms.log_q - terms.log_p, expected)


def by_quadrature() -> list[Row]:
    """Checks KL divergences against the integral of q log(q/p).

    The KL divergence to a mixture has no closed form, so Terms.kl is a Monte Carlo estimate.
    """
    diagonal, full = some_posteriors()
    diagonal, full = diagonal.take(torch.arange(3)), full.take(torch.arange(3))
    grid = Grid.cube(16, LATENTS, 601)
    z = grid.points.unsqueeze(1)
    standard = StandardNormal(LATENTS)
    mixture = Mixture(torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log(), diagonal)

    def integral(q: DiagonalNormal | FullNormal, log_p: Tensor) -> Tensor:
        log_q = q.log_prob(z)
        return grid.integral(log_q.exp() * (log_q - log_p))

    noise = normal("mixture samples", SAMPLES, 3, LATENTS)
    estimates = torch.stack(
        [
            Terms(torch.zeros(len(eps), 3), full.transform(eps), full, mixture).kl
            for eps in noise.split(100)
        ]
    )
    return [
        equality(
            "KL(diagonal normal || N(0, I)) = integral of q log(q/p)",
            kl_to_standard_normal(diagonal.mean, diagonal.std),
            integral(diagonal, standard.log_prob(z)),
            1e-8,
        ),
        equality(
            "KL(full normal || N(0, I)) = integral of q log(q/p)",
            kl_full_to_standard_normal(full.mean, full.scale_tril),
            integral(full, standard.log_prob(z)),
            1e-8,
        ),
        monte_carlo(
            "KL(full normal || mixture), 100-sample estimate = integral of q log(q/p)",
            estimates,
            integral(full, mixture.log_prob(z)),
        ),
    ]
