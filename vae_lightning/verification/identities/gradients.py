"""4. Estimators of the gradient of the bound with respect to the mean and the std of q.

STL is sticking the landing: Roeder et al. 2017, https://arxiv.org/abs/1703.09194. DReG is the
doubly reparameterized gradient: Tucker et al. 2019, https://arxiv.org/abs/1810.04152. Expectations
and variances over the samples are computed as integrals.
Shapes: K samples, P points of a grid.
"""

import torch
from torch import Tensor

from vae_lightning.objectives import elbo, iwae
from vae_lightning.verification.identities.one_latent import OneLatent
from vae_lightning.verification.identities.row import Row, equality, inequality, normal

DRAWS = 500


def moments(case: OneLatent, samples: int, gradient: str) -> tuple[Tensor, Tensor]:
    """Returns the expectation and the std of the gradient with respect to q, (2,) and (2,)."""
    noise, weights = case.noise(samples)
    each = gradients(case, case.q, noise, gradient)
    mean = weights @ each
    return mean, (weights @ (each - mean).square()).sqrt()


def gradients(case: OneLatent, q: Tensor, noise: Tensor, gradient: str) -> Tensor:
    """Returns the gradients of the loss with respect to q (2,), one for each noise: (P, 2).

    ``noise`` is (K, P, 1). ``gradient`` is "elbo" for the ELBO, else an estimator of iwae.
    """
    parameters = q.repeat(noise.shape[1], 1).requires_grad_()
    terms = case.terms(parameters, noise)
    loss = elbo(terms) if gradient == "elbo" else iwae(terms, gradient=gradient)
    return torch.autograd.grad(loss.sum(), parameters)[0]


def estimators() -> list[Row]:
    """Checks which estimators are unbiased for which K, and compares their variances."""
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
        equality(statement, moments(case, samples, gradient)[0], true[samples], 1e-8)
        for statement, (samples, gradient) in unbiased.items()
    ]
    bias = (moments(case, 2, "stl")[0] - true[2]).abs().max()
    plain, doubly = moments(case, 2, "standard")[1], moments(case, 2, "dreg")[1]
    return [
        *rows,
        inequality("k = 2: STL is biased: 0.01 <= |E[STL] - gradient of -L_2|", 0.01, bias),
        inequality(
            "k = 2: std of DReG <= std of the plain gradient, with respect to the mean",
            doubly[0],
            plain[0],
        ),
        inequality(
            "k = 2: std of DReG <= std of the plain gradient, with respect to the std",
            doubly[1],
            plain[1],
        ),
        *landing(case),
        decoder(case),
    ]


def landing(case: OneLatent) -> list[Row]:
    """Checks that STL and DReG are zero for every draw if q is the posterior; the plain is not."""
    one, eight = (normal("landing", samples, DRAWS, 1) for samples in (1, 8))
    zero = {"k = 1: STL": (one, "stl"), "k = 8: DReG": (eight, "dreg")}
    rows = [
        equality(
            f"{name} = 0 if q is the posterior, for every draw",
            gradients(case, case.exact, noise, gradient),
            0.0,
        )
        for name, (noise, gradient) in zero.items()
    ]
    spread = gradients(case, case.exact, one, "elbo").std(0).min()
    return [
        *rows,
        inequality("k = 1: 0.1 <= std of the plain gradient if q is the posterior", 0.1, spread),
    ]


def decoder(case: OneLatent) -> Row:
    """Checks that DReG changes only the gradient of the encoder, not that of the decoder."""
    noise = normal("decoder", 8, DRAWS, 1)

    def gradient(name: str) -> Tensor:
        loss = iwae(case.terms(case.q.clone().requires_grad_(), noise), gradient=name).mean()
        return torch.cat(
            [
                parameter.flatten()
                for parameter in torch.autograd.grad(loss, list(case.model.likelihood.parameters()))
            ]
        )

    return equality(
        "k = 8: DReG gradient of the decoder = plain gradient of the decoder",
        gradient("dreg"),
        gradient("standard"),
    )
