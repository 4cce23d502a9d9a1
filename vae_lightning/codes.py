"""What posterior means and samples say about images: information, and how well a simple reader gets the label.

Shapes: N images, L latent dimensions. Information in nats per image.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from vae_lightning.distributions import DiagonalNormal, FullNormal, Prior

CHUNK = 500  # samples whose density under all N posteriors is computed at once


class Surgery(NamedTuple):
    """The two parts of the mean KL term: mean KL = information + marginal_kl. Hoffman & Johnson 2016."""

    information: float  # I(n; z), at most log N
    marginal_kl: float  # KL(q(z) || p(z)), q(z) = 1/N sum_n q(z|x_n)


def surgery(posterior: DiagonalNormal | FullNormal, prior: Prior, z: Tensor) -> Surgery:
    """I(n; z) and KL(q(z) || p(z)) from one sample z (N, L) of each of the N posteriors.

    I = E[log q(z|x) - log q(z)], KL = E[log q(z) - log p(z)], q(z) being the mixture of all N posteriors, exactly.
    http://approximateinference.org/2016/accepted/HoffmanJohnson2016.pdf
    """
    count = len(z)
    log_q = torch.cat([posterior.cross_log_prob(part).double().logsumexp(-1) for part in z.split(CHUNK)])
    log_q = log_q - torch.tensor(count, dtype=torch.float64).log()
    own, log_p = posterior.log_prob(z[None])[0].double(), prior.log_prob(z[None])[0].double()
    return Surgery(float((own - log_q).mean()), float((log_q - log_p).mean()))


def linear_probe(train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Test accuracy of a logistic regression on standardised posterior means (N, L)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    reader = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return float(reader.fit(train.numpy(), labels.numpy()).score(test.numpy(), test_labels.numpy()))


def nearest_neighbours(train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor, neighbours: int = 5) -> float:
    """Test accuracy of the majority of the ``neighbours`` nearest training means (N, L)."""
    from sklearn.neighbors import KNeighborsClassifier

    reader = KNeighborsClassifier(neighbours)
    return float(reader.fit(train.numpy(), labels.numpy()).score(test.numpy(), test_labels.numpy()))
