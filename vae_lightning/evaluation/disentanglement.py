"""Measures of how well latent dimensions correspond to known factors of the images.

Each is between 0 and 1, does not depend on the order or the signs of the latent dimensions, and is
computed from posterior means.
Shapes: N images, L latent dimensions, F factors.
"""

import math
from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

from vae_lightning import rng
from vae_lightning.data.splits import random_part
from vae_lightning.evaluation.batches import MOST_IMAGES
from vae_lightning.evaluation.needs import LeftOut, need_images

BINS = 20  # of a latent dimension, to estimate its mutual information with a factor
CHANCE = 1e-6  # probability that a dimension is said to inform about a factor though it does not
IMAGES_PER_VALUE = 10  # of a factor, at least, on average
LEAST_IMAGES = 2 * IMAGES_PER_VALUE  # a fifth of them measures the predictors
TREES = 100  # of the random forests of DCI
TRAINED = 0.8  # share of the images on which a predictor is trained; the rest measures it
BATCH, VOTES = 64, 800  # of the FactorVAE score: images of a batch, batches
PRUNED = 0.05  # latent dimensions of a smaller standard deviation get no vote

Values = dict[str, float | LeftOut]


def measure_factors(codes: Tensor, factors: Tensor, unordered: Collection[int] = ()) -> Values:
    """Returns all measures of posterior means (N, L) and factors (N, F), any integers.

    ``unordered`` holds the positions of factors whose values have no order, such as a shape. Of
    more than MOST_IMAGES images, a random part is used, always the same one. A factor is left out,
    with the reason, unless it has 2 to N / IMAGES_PER_VALUE different values. Measures that compare
    factors, or latent dimensions, are left out if there is only one. Raises LeftOut for fewer than
    LEAST_IMAGES images and if no factor remains.
    """
    need_images(len(codes), LEAST_IMAGES, "test")
    index = random_part(len(codes), MOST_IMAGES, "factors")
    codes, factors = codes[index], factors[index]
    most = len(codes) // IMAGES_PER_VALUE
    columns = [column.unique(return_inverse=True)[1] for column in factors.T]  # 0, 1, 2, ...
    sizes = [int(column.max()) + 1 for column in columns]
    used = [number for number, size in enumerate(sizes) if 2 <= size <= most]
    if not used:
        raise LeftOut(f"requires a factor with 2 to {most} different values")
    left_out: Values = {
        f"factor {number}": LeftOut(f"requires 2 to {most} different values, it has {size}")
        for number, size in enumerate(sizes)
        if number not in used
    }
    varied = torch.stack([columns[number] for number in used], dim=1)
    information, one = mutual_information(codes, varied), LeftOut("requires at least 2 factors")
    return left_out | {
        "mig": mutual_information_gap(information, varied),
        "modularity": modularity(beyond_chance(information, codes, varied)) if used[1:] else one,
        "sap": separated_attribute_predictability(
            codes, varied, [position for position, number in enumerate(used) if number in unordered]
        ),
        **dci(codes, varied),
        "factor_vae_score": factor_vae_score(codes, varied) if used[1:] else one,
    }


def discretize(codes: Tensor) -> Tensor:
    """Returns the bins of codes (N, L): integers below BINS. The bins of a dimension are equal."""
    codes = codes.double()
    low, high = codes.min(0).values, codes.max(0).values
    span = (high - low).clamp(min=torch.finfo(torch.float64).tiny)
    return ((codes - low) / span * BINS).long().clamp(max=BINS - 1)


def mutual_information(codes: Tensor, factors: Tensor) -> Tensor:
    """Returns I(z_l; v_f) in nats, (L, F), from histograms with BINS equal bins per dimension."""
    table = torch.empty(codes.shape[1], factors.shape[1], dtype=torch.float64)
    for dimension, bins in enumerate(discretize(codes).T):
        for number, factor in enumerate(factors.T):
            joint = torch.zeros(BINS, int(factor.max()) + 1, dtype=torch.float64)
            joint.index_put_((bins, factor.long()), torch.ones(()).double(), accumulate=True)
            joint /= len(codes)
            independent = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
            seen = joint > 0
            table[dimension, number] = (joint[seen] * (joint[seen] / independent[seen]).log()).sum()
    return table.clamp(min=0)


def beyond_chance(information: Tensor, codes: Tensor, factors: Tensor) -> Tensor:
    """Returns I(z_l; v_f), (L, F), without what histograms find in independent variables.

    For those, 2 N I has a chi-squared distribution with d = (bins - 1) (values - 1) degrees of
    freedom: its mean is d, and it exceeds d + 2 sqrt(d t) + 2 t with probability exp(-t) at most
    (Laurent & Massart 2000, https://doi.org/10.1214/aos/1015957395). I is 0 unless it exceeds
    this for exp(-t) = CHANCE; from the others, d / 2N is subtracted.
    """
    bins = torch.tensor([len(each.unique()) for each in discretize(codes).T])
    values = factors.max(0).values + 1
    freedom = ((bins - 1)[:, None] * (values - 1)).double()
    t = -math.log(CHANCE)
    limit = freedom + 2 * (freedom * t).sqrt() + 2 * t
    scaled = 2 * len(codes) * information
    return torch.where(scaled > limit, (scaled - freedom) / (2 * len(codes)), 0)


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
    informs about one factor only. The result is the mean over the dimensions that inform at all,
    and 0 if none does. F must be at least 2. Ridgeway & Mozer 2018,
    https://arxiv.org/abs/1802.05312.
    """
    squares = information.square()
    best = squares.max(1).values
    informs = best > 0
    if not informs.any():
        return 0.0
    others = (squares.sum(1) - best)[informs] / (best[informs] * (information.shape[1] - 1))
    return float((1 - others).mean())


def separated_attribute_predictability(
    codes: Tensor, factors: Tensor, unordered: Collection[int] = ()
) -> float:
    """Returns the SAP score: the mean gap between the two best predictors of a factor.

    A predictor knows one latent dimension. For most factors it is a linear regression, and its
    score is R^2, which is the squared correlation. For the ``unordered`` ones, positions in
    ``factors``, it is a classifier: see ``threshold_accuracy``. Kumar et al. 2018,
    https://arxiv.org/abs/1711.00848.
    """
    both = torch.cat([codes.double(), factors.double()], dim=1).T
    size = codes.shape[1]
    scores = torch.corrcoef(both)[:size, size:].nan_to_num(0).square()
    for number in unordered:
        for dimension, code in enumerate(codes.T):
            scores[dimension, number] = threshold_accuracy(code, factors[:, number])
    first, second = with_two_rows(scores).topk(2, dim=0).values
    return float((first - second).mean())


def threshold_accuracy(code: Tensor, factor: Tensor) -> float:
    """Returns how well intervals of a code (N,) tell the V values of a factor (N,), 0 to 1.

    V - 1 thresholds are fitted, and each interval stands for one value. The mean A of the
    accuracies of the values is 1/V at chance; the result is (A - 1/V) / (1 - 1/V). Kumar et al.
    2018, https://arxiv.org/abs/1711.00848, take A itself.
    """
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.tree import DecisionTreeClassifier

    x, target = code.double().numpy()[:, None], factor.numpy()
    tree = DecisionTreeClassifier(
        max_leaf_nodes=int(factor.max()) + 1, class_weight="balanced", random_state=0
    )
    return float(balanced_accuracy_score(target, tree.fit(x, target).predict(x), adjusted=True))


def dci(codes: Tensor, factors: Tensor) -> Values:
    """Returns disentanglement, completeness and informativeness.

    A random forest predicts each factor. The importance R_lf >= 0 of dimension l for factor f gives
    disentanglement, sum_l w_l (1 - H(R_l.)), and completeness, sum_f w_f (1 - H(R_.f)): H is the
    entropy of the normalized importances relative to its maximum, and w is the share of the row or
    column in all importances. Informativeness is the mean accuracy on held-out images. The first is
    left out for a single factor, the second for a single dimension. Eastwood & Williams 2018,
    https://openreview.net/forum?id=By-7dz-AZ; the paper reports errors instead of accuracies.
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
        "dci_disentanglement": concentration(table, "factors"),
        "dci_completeness": concentration(table.T, "latent dimensions"),
        "dci_informativeness": float(np.mean(accuracy)),
    }


def concentration(importance: Tensor, columns: str) -> float | LeftOut:
    """Returns sum_i w_i (1 - H_i / log n) over the rows i of importances (m, n).

    H_i is the entropy of the normalized row, and w_i its share in the sum of all rows. LeftOut for
    a single column; ``columns`` says what they are.
    """
    if importance.shape[1] == 1:
        return LeftOut(f"requires at least 2 {columns}")
    shares = importance / importance.sum(1, keepdim=True).clamp(min=1e-12)
    entropies = -torch.xlogy(shares, shares).sum(1) / np.log(importance.shape[1])
    weights = importance.sum(1) / importance.sum().clamp(min=1e-12)
    return float((weights * (1 - entropies)).sum())


def factor_vae_score(codes: Tensor, factors: Tensor) -> float:
    """Returns the FactorVAE score: the accuracy of a majority vote on held-out batches.

    One factor is the same for all images of a batch. The dimension with the least variance in the
    batch, relative to its variance over all images, votes for that factor. Dimensions whose
    standard deviation over all images is below PRUNED have collapsed to the prior and get no vote,
    as in studies with https://github.com/google-research/disentanglement_lib; if there are no
    others, the score is 0. Kim & Mnih 2018, https://arxiv.org/abs/1802.05983.
    """
    generator = rng.generator("cpu", 0, "factor_vae_score")
    variances = codes.double().var(0)
    used = variances >= PRUNED**2
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
