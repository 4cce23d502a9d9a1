"""Objectives about the aggregate posterior q(z) = 1/N sum_n q(z|x_n), estimated from the images of a batch.

With several processes that is each process's own part of the batch. K samples, B images, L latent dimensions.
"""

import math

import torch
from torch import Tensor, nn

from vae_lightning import rng
from vae_lightning.annealing import Annealing
from vae_lightning.distributions import DiagonalNormal, FullNormal
from vae_lightning.objectives.bounds import elbo
from vae_lightning.objectives.terms import Objective, Terms


def total_correlation(posterior: DiagonalNormal | FullNormal, z: Tensor, dataset_size: int) -> Tensor:
    """TC = E_q(z)[log q(z) - sum_l log q(z_l)] per image, (B,), from z (K, B, L) of the B posteriors.

    q at z_i of image i is estimated without bias from the B images of the N = ``dataset_size``:
    q(z_i) = 1/N q(z_i|x_i) + (N - 1)/N 1/(B - 1) sum_{j != i} q(z_i|x_j), exact when the batch is the data set.
    Chen et al. 2018, https://arxiv.org/abs/1802.04942 (their appendix C.2).
    """
    size = z.shape[1]
    own = min(1.0, 1 / dataset_size) if size > 1 else 1.0
    log_weights = z.new_full((size, size), math.log((1 - own) / (size - 1)) if size > 1 and own < 1 else -math.inf)
    log_weights.fill_diagonal_(math.log(own))
    joint = torch.logsumexp(posterior.cross_log_prob(z) + log_weights, dim=-1)  # (K, B)
    per_dim = posterior.marginals().log_prob_per_dim(z.unsqueeze(-2))  # (K, B, B, L)
    marginal = torch.logsumexp(per_dim + log_weights.unsqueeze(-1), dim=-2)  # (K, B, L)
    return (joint - marginal.sum(-1)).mean(0)


class TC(Objective):
    """The ELBO with the total correlation weighted by beta: loss = recon + KL + (beta - 1) TC.

    KL = I(x; z) + TC + sum_l KL(q(z_l) || p(z_l)) where the prior factorises, so that this is the beta-TCVAE with
    alpha = gamma = 1: Chen et al. 2018, https://arxiv.org/abs/1802.04942. The size of the training set is taken from
    the data and kept in the checkpoint.

    Args:
        beta, num_samples, annealing: as for every objective; the factor is that of beta.
    """

    def __init__(self, beta: float, num_samples: int = 1, annealing: Annealing | None = None) -> None:
        super().__init__(beta, num_samples, annealing)
        self.register_buffer("dataset_size", torch.zeros((), dtype=torch.int64))
        self.size: int | None = None  # the same on the host, so that no step has to ask the device

    def check(self, encoder: nn.Module, prior: nn.Module, classes: int) -> None:
        """Needs a posterior with marginals."""
        if getattr(encoder, "sequential", False):
            raise ValueError(
                "objective=tc: must be with posterior=diagonal_normal or full_normal; the marginals of a flow have no"
                " density in closed form"
            )

    def start_from(self, images: Tensor, binarized: bool) -> None:
        """N, the number of training images."""
        self.dataset_size.fill_(len(images))

    def forward(self, terms: Terms, step: int) -> Tensor:
        """Loss per image, (B,), at this optimiser step."""
        if self.size is None:
            self.size = int(self.dataset_size)
        tc = total_correlation(terms.posterior, terms.z, self.size)
        return elbo(terms) + (self.beta_at(step) - 1) * tc


def mmd(first: Tensor, second: Tensor) -> Tensor:
    """Unbiased estimate of the squared maximum mean discrepancy of two samples (n, L) and (m, L), n, m >= 2; 0-d.

    E k(a, a') + E k(b, b') - 2 E k(a, b) with k(a, b) = exp(-|a - b|^2 / (2 L)): for N(0, I) a distance of 1 in the
    exponent is typical. Gretton et al. 2012, https://jmlr.org/papers/v13/gretton12a.html.
    """
    length = 2 * first.shape[-1]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-(a.unsqueeze(1) - b.unsqueeze(0)).square().sum(-1) / length)

    def within(a: Tensor) -> Tensor:
        return (kernel(a, a).sum() - len(a)) / (len(a) * (len(a) - 1))

    return within(first) + within(second) - 2 * kernel(first, second).mean()


class MMD(Objective):
    """InfoVAE: loss = recon + beta KL + weight MMD^2(q(z), p(z)); beta = 1 - alpha, weight = alpha + lambda - 1.

    Zhao et al. 2019, https://arxiv.org/abs/1706.02262. The draws from the prior depend on the step alone.

    Args:
        weight: of the squared MMD.
        beta, num_samples, annealing: as for every objective.
    """

    def __init__(self, weight: float, beta: float, num_samples: int = 1, annealing: Annealing | None = None) -> None:
        super().__init__(beta, num_samples, annealing)
        self.weight = weight

    def forward(self, terms: Terms, step: int) -> Tensor:
        """Loss per image, (B,), at this optimiser step."""
        z = terms.z.flatten(0, 1)  # (K * B, L)
        loss = elbo(terms, self.beta_at(step))
        if len(z) < 2:  # an epoch's last batch may be one image, which is no sample of q(z)
            return loss
        draws = terms.prior.sample(len(z), rng.generator(z.device, 0, "mmd", step)).to(z.dtype)
        return loss + self.weight * mmd(z, draws)
