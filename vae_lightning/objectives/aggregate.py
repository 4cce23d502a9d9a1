"""Objectives that depend on the aggregate posterior q(z) = 1/N sum_n q(z|x_n).

q(z) is estimated from the images of a batch. In distributed training, each process uses its own
part of the batch.
Shapes: K samples, B images, L latent dimensions.
"""

import math
from typing import Annotated

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from vae_lightning import rng
from vae_lightning.checks.ranges import Number, Option
from vae_lightning.distributions import DiagonalNormal, FullNormal
from vae_lightning.distributions.component import require_marginals
from vae_lightning.objectives.annealing import Annealing
from vae_lightning.objectives.bounds import elbo
from vae_lightning.objectives.terms import Beta, NumSamples, Objective, Terms


def total_correlation(
    posterior: DiagonalNormal | FullNormal, z: Float[Tensor, "K B L"], dataset_size: int
) -> Float[Tensor, " B"]:
    """Returns the total correlation per image, (B,), from samples z (K, B, L) of the B posteriors.

        TC = E_q(z)[log q(z) - sum_l log q(z_l)]

    q(z) at a sample z_i of image i is estimated without bias from the batch, with N =
    ``dataset_size``:

        q(z_i) = 1/N q(z_i|x_i) + (N - 1)/N 1/(B - 1) sum_{j != i} q(z_i|x_j)

    It is exact if the batch is the whole data set. Otherwise the logarithm makes TC too large,
    the more so the narrower the posteriors are: with N = 55,000, B = 128, L = 16 and posteriors
    whose aggregate is N(0, I), where TC = 0, the estimate is 8.8 nats for std = 0.3 and 27.5 nats
    for std = 0.1. It is suited as a loss but not as a result; ``evaluate`` reports two other
    estimates. Chen et al. 2018, appendix C.2,
    https://arxiv.org/abs/1802.04942.
    """
    batch_size = z.shape[1]
    own_weight = min(1.0, 1 / dataset_size) if batch_size > 1 else 1.0
    has_others = batch_size > 1 and own_weight < 1
    log_weights = z.new_full(
        (batch_size, batch_size),
        math.log((1 - own_weight) / (batch_size - 1)) if has_others else -math.inf,
    )
    log_weights.fill_diagonal_(math.log(own_weight))
    joint = torch.logsumexp(posterior.cross_log_prob(z) + log_weights, dim=-1)  # (K, B)
    per_dim = posterior.marginals().log_prob_per_dim(z.unsqueeze(-2))  # (K, B, B, L)
    marginal = torch.logsumexp(per_dim + log_weights.unsqueeze(-1), dim=-2)  # (K, B, L)
    return (joint - marginal.sum(-1)).mean(0)


TCWeight = Annotated[float, Option("weight of the total correlation", Number(least=0))]
Weight = Annotated[float, Option("weight of the squared MMD", Number(least=0))]


class TC(Objective):
    """The negative ELBO with a weighted total correlation: loss = recon + KL + (beta - 1) TC.

    If the prior factorizes, KL = I(x; z) + TC + sum_l KL(q(z_l) || p(z_l)), and the loss is that of
    the beta-TCVAE with alpha = gamma = 1: Chen et al. 2018, https://arxiv.org/abs/1802.04942. TC of
    a batch is too large, by several nats if the posteriors are narrow: see total_correlation. The
    size of the training set is stored in the checkpoint.

    Args:
        beta: weight of the total correlation.
        num_samples, annealing: see Objective.
    """

    dataset_size: Tensor

    def __init__(
        self, beta: TCWeight, num_samples: NumSamples = 1, annealing: Annealing | None = None
    ) -> None:
        super().__init__(beta, num_samples, annealing)
        self.register_buffer("dataset_size", torch.zeros((), dtype=torch.int64))
        # dataset_size as an int, so that no step copies it from the device
        self.size: int | None = None

    def check(self, encoder: nn.Module, prior: nn.Module, classes: int) -> None:
        """Raises ConfigError for a posterior whose marginals have no closed form."""
        reason = "the marginals of other posteriors have no closed-form density"
        require_marginals(encoder, "objective=tc", reason)

    def start_from(self, images: UInt8[Tensor, "N C H W"], binarized: bool) -> None:
        """Stores N, the number of training images."""
        self.dataset_size.fill_(len(images))

    def forward(self, terms: Terms, step: int) -> Float[Tensor, " B"]:
        """Returns the loss per image, (B,), at this optimizer step."""
        if self.size is None:
            self.size = int(self.dataset_size)
        posterior = terms.posterior
        tc = total_correlation(posterior, terms.z, self.size)  # pyright: ignore[reportArgumentType] - TC.check refuses a Flow
        return elbo(terms) + (self.beta_at(step) - 1) * tc


def mmd(first: Float[Tensor, "K n L"], second: Float[Tensor, "m L"]) -> Float[Tensor, ""]:
    """Returns an unbiased estimate of the squared maximum mean discrepancy of two sets of samples.

        E k(a, a') + E k(b, b') - 2 E k(a, b) with k(a, b) = exp(-|a - b|^2 / (2 L))

    The first set (K, n, L) consists of K samples of each of n distributions, the second one is
    (m, L), with n, m >= 2; the result is a scalar. The samples a and a' come from different
    distributions, because K samples of the posterior of one image are not independent samples of
    q(z). For samples of N(0, I), the exponent is -1 on average. Gretton et al. 2012,
    https://jmlr.org/papers/v13/gretton12a.html.
    """
    kernel_width = 2 * first.shape[-1]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-(a.unsqueeze(-2) - b.unsqueeze(-3)).square().sum(-1) / kernel_width)

    def mean_kernel_within(a: Tensor) -> Tensor:
        samples, groups = a.shape[:2]
        every = a.flatten(0, 1)
        of_same_group = kernel(a.transpose(0, 1), a.transpose(0, 1)).sum()
        return (kernel(every, every).sum() - of_same_group) / (samples**2 * groups * (groups - 1))

    within = mean_kernel_within(first) + mean_kernel_within(second.unsqueeze(0))
    return within - 2 * kernel(first.flatten(0, 1), second).mean()


class MMD(Objective):
    """The InfoVAE objective: loss = recon + beta KL + weight MMD^2(q(z), p(z)).

    In the notation of Zhao et al. 2019, https://arxiv.org/abs/1706.02262, beta = 1 - alpha and
    weight = alpha + lambda - 1. The samples of the prior depend only on the optimizer step.

    Args:
        weight: weight of the squared MMD.
        beta, num_samples, annealing: see Objective.
    """

    def __init__(
        self,
        weight: Weight,
        beta: Beta,
        num_samples: NumSamples = 1,
        annealing: Annealing | None = None,
    ) -> None:
        super().__init__(beta, num_samples, annealing)
        self.weight = weight

    def forward(self, terms: Terms, step: int) -> Float[Tensor, " B"]:
        """Returns the loss per image, (B,), at this optimizer step."""
        z = terms.z
        loss = elbo(terms, self.beta_at(step))
        samples, images = z.shape[:2]
        if images < 2:  # the last batch of an epoch can have one image; the estimate requires two
            return loss
        generator = rng.generator(z.device, 0, "mmd", step)
        prior_samples = terms.prior.sample(samples * images, generator)
        return loss + self.weight * mmd(z, prior_samples.to(z.dtype))
