"""4. Gradient estimators of the bound with respect to q's mean and standard deviation.

STL is sticking the landing, Roeder et al. 2017, https://arxiv.org/abs/1703.09194; DReG is doubly reparameterised,
Tucker et al. 2019, https://arxiv.org/abs/1810.04152. Expectations and variances over the samples are integrals.
"""

import torch
from torch import Tensor

from vae_lightning.identities.pairs import OneLatent
from vae_lightning.identities.row import Row, at_most, normal, worst
from vae_lightning.objectives import elbo, iwae

DRAWS = 500


def moments(case: OneLatent, samples: int, gradient: str) -> tuple[Tensor, Tensor]:
    """Expectation and standard deviation of the gradient of -iwae with respect to q, (2,) and (2,)."""
    noise, weights = case.noise(samples)
    each = gradients(case, case.q, noise, gradient)
    mean = weights @ each
    return mean, (weights @ (each - mean).square()).sqrt()


def gradients(case: OneLatent, q: Tensor, noise: Tensor, gradient: str) -> Tensor:
    """The gradient with respect to q (2,) for every column of noise (K, P, 1): (P, 2)."""
    parameters = q.repeat(noise.shape[1], 1).requires_grad_()
    terms = case.terms(parameters, noise)
    loss = elbo(terms) if gradient == "elbo" else iwae(terms, gradient=gradient)
    return torch.autograd.grad(loss.sum(), parameters)[0]


def estimators() -> list[Row]:
    """Which are unbiased, for how many samples, and what they vary."""
    case = OneLatent()
    true = {}
    for samples in (1, 2):
        q = case.q.clone().requires_grad_()
        true[samples] = -torch.autograd.grad(case.bound(q, samples), q)[0]
    unbiased = {
        "E[gradient of elbo] = gradient of -ELBO": (1, "elbo"),
        "k = 1: E[plain gradient of iwae] = gradient of -L_1": (1, "standard"),
        "k = 1: E[STL] = gradient of -L_1": (1, "stl"),
        "k = 1: E[DReG] = gradient of -L_1": (1, "dreg"),
        "k = 2: E[plain gradient of iwae] = gradient of -L_2": (2, "standard"),
        "k = 2: E[DReG] = gradient of -L_2": (2, "dreg"),
    }
    rows = [
        worst(says, moments(case, samples, gradient)[0], true[samples], 1e-8)
        for says, (samples, gradient) in unbiased.items()
    ]
    bias = (moments(case, 2, "stl")[0] - true[2]).abs().max()
    plain, doubly = moments(case, 2, "standard")[1], moments(case, 2, "dreg")[1]
    return [
        *rows,
        at_most("k = 2: STL is biased: 0.01 <= |E[STL] - gradient of -L_2|", 0.01, bias),
        at_most("k = 2: standard deviation of DReG <= of plain, for the mean", doubly[0], plain[0]),
        at_most("k = 2: standard deviation of DReG <= of plain, for the std", doubly[1], plain[1]),
        *landing(case),
        decoder(case),
    ]


def landing(case: OneLatent) -> list[Row]:
    """At the exact posterior: STL and DReG are zero at every draw, the plain estimator is not."""
    one, eight = (normal("landing", samples, DRAWS, 1) for samples in (1, 8))
    zero = {"k = 1: STL": (one, "stl"), "k = 8: DReG": (eight, "dreg")}
    rows = [
        worst(f"{name} = 0 at the exact posterior, at every draw",
              gradients(case, case.exact, noise, gradient), 0.0)
        for name, (noise, gradient) in zero.items()
    ]  # fmt: skip
    spread = gradients(case, case.exact, one, "elbo").std(0).min()
    return [*rows, at_most("k = 1: plain is not: 0.1 <= its standard deviation there", 0.1, spread)]


def decoder(case: OneLatent) -> Row:
    """DReG is about the encoder: the decoder's gradient stays the plain one."""
    noise = normal("decoder", 8, DRAWS, 1)

    def gradient(name: str) -> Tensor:
        loss = iwae(case.terms(case.q.clone().requires_grad_(), noise), gradient=name).mean()
        return torch.cat(
            [part.flatten() for part in torch.autograd.grad(loss, list(case.model.likelihood.parameters()))]
        )

    return worst("k = 8: DReG's gradient of the decoder = the plain one", gradient("dreg"), gradient("standard"))
