"""3. The importance-weighted bound: Burda et al. 2016, https://arxiv.org/abs/1509.00519.

L_k = E[log 1/k sum_i w_i], w = p(x, z)/q(z): L_1 is the ELBO, it rises with k, and E[exp of it] = p(x).
"""

import math

import torch
from torch import Tensor

from vae_lightning.identities.pairs import OneLatent
from vae_lightning.identities.row import STANDARD_ERRORS, Row, at_most, normal, sampled, standard_error, worst
from vae_lightning.objectives import Terms, elbo, iwae
from vae_lightning.quadrature import Grid

SAMPLES, REPLICATES = 100, 20_000


def importance_weighting() -> list[Row]:
    """The bound on a case with one latent dimension."""
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
        worst("L_1 = ELBO", first, bound),
        worst("L_2 = its definition, integrated over both samples", second, case.bound(case.q, 2)),
        at_most("L_1 <= L_2", first, second),
        worst("E[exp of the estimate of L_2] = p(x), as logarithms", (pair.exp() @ pair_weights).log(), case.log_p),
        *by_sampling(case),
    ]


def by_sampling(case: OneLatent) -> list[Row]:
    """More samples: groups of the same ones, so that L_k rises in every replicate, and the speed of the approach."""
    noise = normal("iwae samples", SAMPLES, REPLICATES, 1)
    with torch.no_grad():
        terms = case.terms(case.q, noise)

    def estimates(samples: int) -> Tensor:
        """Means over the groups of ``samples`` samples of -iwae: (REPLICATES,)."""
        groups = SAMPLES // samples
        grouped = Terms(
            terms.recon.unflatten(0, (samples, groups)).flatten(1),
            terms.z.unflatten(0, (samples, groups)).flatten(1, 2),
            type(terms.posterior)(*(part.repeat(groups, 1) for part in (terms.posterior.mean, terms.posterior.std))),
            terms.prior,
        )
        return (-iwae(grouped) - case.model.log_normalizer).unflatten(0, (groups, -1)).mean(0)

    bounds = {samples: estimates(samples) for samples in (2, 10, SAMPLES)}
    last = bounds[SAMPLES]
    rises = [
        at_most(f"L_{few} <= L_{many}, by {REPLICATES:,} replicates of the same samples", bounds[few].mean(),
                bounds[many].mean())
        for few, many in ((2, 10), (10, SAMPLES))
    ]  # fmt: skip
    tolerance = STANDARD_ERRORS * float(standard_error(last))
    return [
        *rises,
        at_most(f"L_{SAMPLES} <= log p(x)", last.mean(), case.log_p, tolerance),
        sampled(f"E[exp of the estimate of L_{SAMPLES}] / p(x) = 1", (last - case.log_p).exp(), 1.0),
        approach(case, last),
        *surrogate(terms),
        surrogate_gradient(case, noise[:, :500]),
    ]


def approach(case: OneLatent, estimates: Tensor) -> Row:
    """k (log p - L_k) -> chi^2/2, chi^2 the variance of w/p(x) by quadrature (Domke & Sheldon 2018, 1808.09034).

    exp(estimate)/p(x) - 1 has mean zero and takes most of the noise away.
    """
    gap = case.log_p - estimates
    grid = Grid.over(*(case.exact[:1] + sign * 12 * case.exact[1] for sign in (-1, 1)), 2001)
    q = torch.distributions.Normal(*case.q)
    squared = 2 * case.posterior.log_prob(grid.points[:, 0]) - q.log_prob(grid.points[:, 0])
    chi_squared = grid.integral(squared.exp()) - 1
    return sampled(f"k (log p(x) - L_k) -> chi^2(p(z|x) || q)/2, k = {SAMPLES}",
                   SAMPLES * (gap + torch.expm1(-gap)), chi_squared / 2)  # fmt: skip


def surrogate(terms: Terms) -> list[Row]:
    """The self-normalised surrogate sum_i w~_i log w_i: too good by log k - entropy(w~), so up to log k."""
    log_weights = terms.log_p - terms.log_q - terms.recon
    normalised = log_weights.softmax(0)
    value = (normalised * log_weights).sum(0)
    entropy = -(normalised * normalised.log()).sum(0)
    excess = value + iwae(terms)
    return [
        worst("self-normalised surrogate less L_k = log k - entropy of the weights", excess,
              math.log(SAMPLES) - entropy),
        at_most("which is at most log k", excess.max(), math.log(SAMPLES)),
    ]  # fmt: skip


def surrogate_gradient(case: OneLatent, noise: Tensor) -> Row:
    """Its gradient, the weights held fixed, is that of L_k."""
    q = case.q.repeat(noise.shape[1], 1).requires_grad_()
    terms = case.terms(q, noise)
    log_weights = terms.log_p - terms.log_q - terms.recon
    value = (log_weights.detach().softmax(0) * log_weights).sum()
    (expected,) = torch.autograd.grad(value, q, retain_graph=True)
    (found,) = torch.autograd.grad(-iwae(terms).sum(), q)
    return worst("gradient of L_k = gradient of the surrogate, weights held fixed", found, expected)
