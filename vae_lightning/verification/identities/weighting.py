"""3. The importance-weighted bound: Burda et al. 2016, https://arxiv.org/abs/1509.00519.

    L_k = E[log 1/k sum_i w_i], w_i = p(x, z_i)/q(z_i)

L_1 is the ELBO. L_k increases with k. The expectation of 1/k sum_i w_i is p(x).
"""

import math

import torch
from torch import Tensor

from vae_lightning.distributions import DiagonalNormal
from vae_lightning.objectives import Terms, elbo, iwae
from vae_lightning.verification.identities.one_latent import OneLatent
from vae_lightning.verification.identities.row import (
    STANDARD_ERRORS,
    Row,
    equality,
    inequality,
    monte_carlo,
    normal,
    standard_error,
)
from vae_lightning.verification.quadrature import Grid

SAMPLES, REPLICATES = 100, 20_000


def importance_weighting() -> list[Row]:
    """Checks the bound on a model with one latent dimension."""
    case = OneLatent()
    offset = case.model.log_normalizer

    def by_quadrature(samples: int) -> tuple[Tensor, Tensor]:
        noise, weights = case.noise(samples)
        with torch.no_grad():
            return -iwae(case.terms(case.q, noise)) - offset, weights

    single, single_weights = by_quadrature(1)
    pair, pair_weights = by_quadrature(2)
    first, second = (single * single_weights).sum(), (pair * pair_weights).sum()
    noise, weights = case.noise(1)
    with torch.no_grad():
        bound = (-elbo(case.terms(case.q, noise)) - offset) @ weights
    return [
        equality("L_1 = ELBO", first, bound),
        equality(
            "L_2 = its definition, an integral over both samples", second, case.bound(case.q, 2)
        ),
        inequality("L_1 <= L_2", first, second),
        equality(
            "log E[exp(estimate of L_2)] = log p(x)",
            (pair.exp() @ pair_weights).log(),
            case.log_p,
        ),
        *by_sampling(case),
    ]


def by_sampling(case: OneLatent) -> list[Row]:
    """Checks the bound for more samples, by Monte Carlo.

    The estimates for all k use the same samples in groups of k, so L_k increases with k in every
    replicate.
    """
    noise = normal("iwae samples", SAMPLES, REPLICATES, 1)
    with torch.no_grad():
        terms = case.terms(case.q, noise)

    posterior = terms.posterior
    assert isinstance(posterior, DiagonalNormal)

    def estimates(samples: int) -> Tensor:
        """Returns the mean estimate over groups of k = ``samples`` samples: (REPLICATES,)."""
        groups = SAMPLES // samples
        grouped = Terms(
            terms.recon.unflatten(0, (samples, groups)).flatten(1),
            terms.z.unflatten(0, (samples, groups)).flatten(1, 2),
            DiagonalNormal(posterior.mean.repeat(groups, 1), posterior.std.repeat(groups, 1)),
            terms.prior,
        )
        return (-iwae(grouped) - case.model.log_normalizer).unflatten(0, (groups, -1)).mean(0)

    bounds = {samples: estimates(samples) for samples in (2, 10, SAMPLES)}
    last = bounds[SAMPLES]
    increases = [
        inequality(
            f"L_{few} <= L_{many}, both from the same samples, {REPLICATES:,} replicates",
            bounds[few].mean(),
            bounds[many].mean(),
        )
        for few, many in ((2, 10), (10, SAMPLES))
    ]
    tolerance = STANDARD_ERRORS * float(standard_error(last))
    return [
        *increases,
        inequality(f"L_{SAMPLES} <= log p(x)", last.mean(), case.log_p, tolerance),
        monte_carlo(f"E[exp(estimate of L_{SAMPLES})] / p(x) = 1", (last - case.log_p).exp(), 1.0),
        convergence(case, last),
        *surrogate(terms),
        surrogate_gradient(case, noise[:, :500]),
    ]


def convergence(case: OneLatent, estimates: Tensor) -> Row:
    """Checks the rate of convergence: k (log p(x) - L_k) -> chi^2/2.

    chi^2 is the variance of w/p(x), computed by quadrature. exp(estimate)/p(x) - 1 has mean zero
    and serves as a control variate, which removes most of the noise.
    Domke & Sheldon 2018, https://arxiv.org/abs/1808.09034.
    """
    gap = case.log_p - estimates
    low, high = (case.exact[:1] + sign * 12 * case.exact[1] for sign in (-1, 1))
    grid = Grid.over(low, high, 2001)
    q = torch.distributions.Normal(case.q[0], case.q[1])
    squared = 2 * case.posterior.log_prob(grid.points[:, 0]) - q.log_prob(grid.points[:, 0])
    chi_squared = grid.integral(squared.exp()) - 1
    return monte_carlo(
        f"k (log p(x) - L_k) -> chi^2(p(z|x) || q)/2, k = {SAMPLES}",
        SAMPLES * (gap + torch.expm1(-gap)),
        chi_squared / 2,
    )


def surrogate(terms: Terms) -> list[Row]:
    """Checks the error of the self-normalized surrogate sum_i w~_i log w_i, w~ = softmax(log w).

    It exceeds the estimate of L_k by log k - entropy(w~), which is at most log k.
    """
    log_weights = terms.log_p - terms.log_q - terms.recon
    normalized = log_weights.softmax(0)
    value = (normalized * log_weights).sum(0)
    entropy = -(normalized * normalized.log()).sum(0)
    excess = value + iwae(terms)
    return [
        equality(
            "self-normalized surrogate - L_k = log k - entropy of the weights",
            excess,
            math.log(SAMPLES) - entropy,
        ),
        inequality("self-normalized surrogate - L_k <= log k", excess.max(), math.log(SAMPLES)),
    ]


def surrogate_gradient(case: OneLatent, noise: Tensor) -> Row:
    """Checks that the gradient of the surrogate with fixed weights is the gradient of L_k."""
    q = case.q.repeat(noise.shape[1], 1).requires_grad_()
    terms = case.terms(q, noise)
    log_weights = terms.log_p - terms.log_q - terms.recon
    value = (log_weights.detach().softmax(0) * log_weights).sum()
    (expected,) = torch.autograd.grad(value, q, retain_graph=True)
    (found,) = torch.autograd.grad(-iwae(terms).sum(), q)
    return equality(
        "gradient of L_k = gradient of the surrogate with fixed weights", found, expected
    )
