"""Measures of planted codes, compared with those of the package disent: 2 min.

``pip install --no-deps disent==0.8.0 && pip install h5py imageio``, then
``python -m benchmarks.disentanglement``. Both packages get the same arrays.
"""

import math
import warnings

import numpy as np
import torch
from torch import Tensor

from vae_lightning.data.sources.sprites import FACTORS
from vae_lightning.distributions import DiagonalNormal
from vae_lightning.evaluation import disentanglement as ours
from vae_lightning.evaluation.latents import total_correlation

IMAGES, RHO, STD = 2764, 0.8, 0.3


def planted() -> dict[str, tuple[Tensor, Tensor]]:
    """Codes (N, L) and factors (N, F), by their names."""
    generator = torch.Generator().manual_seed(0)
    grid = torch.cartesian_prod(*(torch.arange(values) for values in FACTORS.values()))
    factors = grid[torch.randperm(len(grid), generator=generator)[:IMAGES]]
    perfect = (factors - factors.double().mean(0)) / factors.double().std(0)
    noise = torch.randn(IMAGES, 7, generator=generator, dtype=torch.float64)
    rotated = perfect.clone()  # x and y by 45 degrees
    rotated[:, 3:] = rotated[:, 3:] @ torch.tensor([[1.0, 1.0], [-1.0, 1.0]]).double() / 2**0.5
    return {
        "perfect": (perfect, factors),
        "rotated pair with noise": (
            torch.cat([rotated + 0.1 * noise[:, :5], noise[:, 5:]], 1),
            factors,
        ),
        "independent": (noise[:, :5], factors),
    }


def compare(codes: Tensor, factors: Tensor) -> dict[str, tuple[float, float]]:
    """Each measure here and in disent."""
    from disent.metrics import _dci, _mig, _sap

    mus, ys = codes.T.numpy(), factors.T.numpy()
    split = int(ours.TRAINED * IMAGES)
    parts = mus[:, :split], ys[:, :split], mus[:, split:], ys[:, split:]
    found = ours.measure_factors(codes, factors)
    categories = ours.separated_attribute_predictability(codes, factors, range(len(FACTORS)))
    trees = _dci._compute_dci(*parts)
    return {
        "MIG": (found["mig"], _mig._compute_mig(mus, ys)["mig.discrete_score"]),
        "SAP, regression": (found["sap"], _sap._compute_sap(mus, ys, mus, ys, True)["sap.score"]),
        "SAP, classifier": (categories, _sap._compute_sap(*parts, False)["sap.score"]),
        "DCI disentanglement": (found["dci_disentanglement"], trees["dci.disentanglement"]),
        "DCI completeness": (found["dci_completeness"], trees["dci.completeness"]),
    }


def total_correlations() -> dict[str, float]:
    """The total correlation in nats of a normal q(z), L = 4, of N = IMAGES posteriors."""
    from disent.frameworks.vae import BetaTcVae
    from disent.metrics._unsupervised import _gaussian_total_correlation

    generator = torch.Generator().manual_seed(0)
    covariance = torch.full((4, 4), RHO, dtype=torch.float64).fill_diagonal_(1)
    mean = (
        torch.randn(IMAGES, 4, generator=generator).double() @ torch.linalg.cholesky(covariance).T
    )
    z = mean + STD * torch.randn(IMAGES, 4, generator=generator).double()
    correlation = covariance / (1 + STD**2)
    correlation.fill_diagonal_(1)
    std = torch.full_like(mean, STD)
    batch = BetaTcVae._betatc_compute_total_correlation(z, mean, 2 * std.log())
    return {
        "closed form, -1/2 log det of the correlations": -0.5 * float(correlation.logdet()),
        "here": total_correlation(DiagonalNormal(mean, std), z),
        "disent, metric_unsupervised, of samples": float(_gaussian_total_correlation(np.cov(z.T))),
        "disent, metric_unsupervised, of means": float(_gaussian_total_correlation(np.cov(mean.T))),
        "disent, BetaTcVae": float(batch),
        "disent, BetaTcVae, + (L - 1) log N": float(batch) + 3 * math.log(IMAGES),
    }


def main() -> None:
    """Prints all values."""
    warnings.simplefilter("ignore")  # of sklearn and disent
    for name, arrays in planted().items():
        for measure, values in compare(*arrays).items():
            print(f"{name}: {measure}: here {values[0]:.4f}, disent {values[1]:.4f}")
    for name, value in total_correlations().items():
        print(f"total correlation, {name}: {value:.3f} nats")


if __name__ == "__main__":
    main()
