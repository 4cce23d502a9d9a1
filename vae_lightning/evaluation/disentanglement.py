"""Measures of how well latent dimensions correspond to known factors of the images.

Each is between 0 and 1, does not depend on the order or the signs of the latent dimensions, and is
computed from posterior means.
Shapes: N images, L latent dimensions, F factors.
"""

import numpy as np
import torch
from torch import Tensor

from vae_lightning import rng
from vae_lightning.data.splits import random_part
from vae_lightning.evaluation.batches import MOST_IMAGES
from vae_lightning.evaluation.needs import LeftOut, need_images

BINS = 20  # of a latent dimension, to estimate its mutual information with a factor
LEAST_IMAGES = 10  # a fifth of them measures the predictors
TREES = 100  # of the random forests of DCI
TRAINED = 0.8  # share of the images on which a predictor is trained; the rest measures it
BATCH, VOTES = 64, 800  # of the FactorVAE score: images of a batch, batches
PRUNED = 0.05  # latent dimensions of a smaller relative variance get no vote


def measure_factors(codes: Tensor, factors: Tensor) -> dict[str, float]:
    """Returns all measures of posterior means (N, L) and factors (N, F), integers from 0 on.

    Factors with a single value are left out. Of more than MOST_IMAGES images, a random part is
    used, always the same one. Raises LeftOut for fewer than LEAST_IMAGES and if no factor varies.
    """
    need_images(len(codes), LEAST_IMAGES, "test")
    index = random_part(len(codes), MOST_IMAGES, "factors")
    codes, factors = codes[index], factors[index]
    varied = factors[:, [len(column.unique()) > 1 for column in factors.T]]
    if not varied.shape[1]:
        raise LeftOut("requires a factor with different values")
    information = mutual_information(codes, varied)
    return {
        "mig": mutual_information_gap(information, varied),
        "modularity": modularity(information),
        "sap": separated_attribute_predictability(codes, varied),
        **dci(codes, varied),
        "factor_vae_score": factor_vae_score(codes, varied),
    }


def mutual_information(codes: Tensor, factors: Tensor) -> Tensor:
    """Returns I(z_l; v_f) in nats, (L, F), from histograms with BINS equal bins per dimension."""
    table = torch.empty(codes.shape[1], factors.shape[1], dtype=torch.float64)
    for dimension, code in enumerate(codes.double().T):
        low, high = code.min(), code.max()
        span = (high - low).clamp(min=torch.finfo(torch.float64).tiny)
        bins = ((code - low) / span * BINS).long().clamp(max=BINS - 1)
        for number, factor in enumerate(factors.T):
            joint = torch.zeros(BINS, int(factor.max()) + 1, dtype=torch.float64)
            joint.index_put_((bins, factor.long()), torch.ones(()).double(), accumulate=True)
            joint /= len(code)
            independent = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
            seen = joint > 0
            table[dimension, number] = (joint[seen] * (joint[seen] / independent[seen]).log()).sum()
    return table.clamp(min=0)


def entropy(values: Tensor) -> Tensor:
    """Returns the entropy in nats of the values (N,), integers from 0 on."""
    shares = values.bincount().double() / len(values)
    return -(shares[shares > 0] * shares[shares > 0].log()).sum()


def mutual_information_gap(information: Tensor, factors: Tensor) -> float:
    """Returns the mutual information gap from I(z_l; v_f), (L, F).

    The gap of a factor is the difference of its two largest values, over the entropy of the factor;
    the result is the mean over the factors. Chen et al. 2018, https://arxiv.org/abs/1802.04942.
    """
    first, second = with_two_rows(information).topk(2, dim=0).values
    entropies = torch.stack([entropy(factor) for factor in factors.T])
    return float(((first - second) / entropies).mean())


def with_two_rows(values: Tensor) -> Tensor:
    """Returns the values (L, F), with a row of zeros if there is a single latent dimension."""
    return values if len(values) > 1 else torch.cat([values, torch.zeros_like(values)])


def modularity(information: Tensor) -> float:
    """Returns the modularity from I(z_l; v_f), (L, F).

    That of a latent dimension is 1 - sum_{f != best} I^2 / (I_best^2 (F - 1)): it is 1 if it
    informs about one factor only. The result is the mean over the dimensions that inform at all.
    Ridgeway & Mozer 2018, https://arxiv.org/abs/1802.05312.
    """
    squares = information.square()
    best = squares.max(1).values
    informs = best > 0
    if not informs.any():
        return 0.0
    others = (squares.sum(1) - best)[informs] / (best[informs] * max(information.shape[1] - 1, 1))
    return float((1 - others).mean())


def separated_attribute_predictability(codes: Tensor, factors: Tensor) -> float:
    """Returns the SAP score: the mean gap between the two best predictors of a factor.

    A predictor is a linear regression on one latent dimension, and its score is R^2, which is the
    squared correlation. Kumar et al. 2018, https://arxiv.org/abs/1711.00848; for factors without an
    order the paper uses a classifier in place of the regression.
    """
    both = torch.cat([codes.double(), factors.double()], dim=1).T
    size = codes.shape[1]
    scores = torch.corrcoef(both)[:size, size:].nan_to_num(0).square()
    first, second = with_two_rows(scores).topk(2, dim=0).values
    return float((first - second).mean())


def dci(codes: Tensor, factors: Tensor) -> dict[str, float]:
    """Returns disentanglement, completeness and informativeness.

    A random forest predicts each factor. The importance R_lf >= 0 of dimension l for factor f gives
    disentanglement, sum_l w_l (1 - H(R_l.)), and completeness, sum_f w_f (1 - H(R_.f)): H is the
    entropy of the normalized importances relative to its maximum, and w is the share of the row or
    column in all importances. Informativeness is the mean accuracy on held-out images. Eastwood &
    Williams 2018, https://openreview.net/forum?id=By-7dz-AZ; the paper reports errors instead of
    accuracies.
    """
    from sklearn.ensemble import RandomForestClassifier

    split = int(TRAINED * len(codes))
    order = torch.randperm(len(codes), generator=rng.generator("cpu", 0, "dci"))
    x, targets = codes[order].double().numpy(), factors[order].numpy()
    importance, accuracy = np.zeros((codes.shape[1], factors.shape[1])), []
    for number in range(factors.shape[1]):
        # each split may use every dimension: a dimension that knows nothing has no importance
        forest = RandomForestClassifier(TREES, max_features=1.0, random_state=0)  # pyright: ignore[reportArgumentType] - its stub knows only the names of rules
        forest.fit(x[:split], targets[:split, number])
        importance[:, number] = forest.feature_importances_
        accuracy.append(forest.score(x[split:], targets[split:, number]))
    table = torch.from_numpy(importance)
    return {
        "dci_disentanglement": concentration(table),
        "dci_completeness": concentration(table.T),
        "dci_informativeness": float(np.mean(accuracy)),
    }


def concentration(importance: Tensor) -> float:
    """Returns sum_i w_i (1 - H_i / log n) over the rows i of importances (m, n).

    H_i is the entropy of the normalized row, and w_i its share in the sum of all rows.
    """
    if importance.shape[1] == 1:
        return 1.0
    shares = importance / importance.sum(1, keepdim=True).clamp(min=1e-12)
    entropies = -torch.xlogy(shares, shares).sum(1) / np.log(importance.shape[1])
    weights = importance.sum(1) / importance.sum().clamp(min=1e-12)
    return float((weights * (1 - entropies)).sum())


def factor_vae_score(codes: Tensor, factors: Tensor) -> float:
    """Returns the FactorVAE score: the accuracy of a majority vote on held-out batches.

    One factor is the same for all images of a batch. The dimension with the least variance in the
    batch, relative to its variance over all images, votes for that factor. Kim & Mnih 2018,
    https://arxiv.org/abs/1802.05983.
    """
    generator = rng.generator("cpu", 0, "factor_vae_score")
    variances = codes.double().var(0)
    used = variances > PRUNED**2 * variances.max()
    if not bool(used.any()):
        return 0.0
    scaled = codes[:, used].double() / variances[used].sqrt()
    counts = torch.zeros(2, scaled.shape[1], factors.shape[1])
    for vote in range(2 * VOTES):  # the first half trains the classifier, the second tests it
        fixed = int(torch.randint(factors.shape[1], (), generator=generator))
        value = factors[int(torch.randint(len(factors), (), generator=generator)), fixed]
        same = (factors[:, fixed] == value).nonzero().squeeze(1)
        chosen = same[torch.randint(len(same), (BATCH,), generator=generator)]
        counts[vote // VOTES, scaled[chosen].var(0).argmin(), fixed] += 1
    votes, tests = counts
    return float(tests.gather(1, votes.argmax(1, keepdim=True)).sum() / tests.sum())
