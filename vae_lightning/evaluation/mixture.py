"""A Gaussian mixture of the codes of a trained model, to sample from in place of the prior.

Samples of the prior lie partly where the decoder was never trained, if the aggregate posterior
differs from the prior. Ghosh et al. 2020, https://arxiv.org/abs/1903.12436, fit such a mixture.
Shapes: N images, L latent dimensions, M components.
"""

import torch

from vae_lightning import rng
from vae_lightning.data.images import ImageData
from vae_lightning.distributions import FullNormal, Mixture
from vae_lightning.evaluation.batches import split_images, training_images
from vae_lightning.training.module import EVALUATION_SEED, VAE

COMPONENTS = 10  # as in the paper
MOST_CODES = 20_000  # more make the fit slower and hardly better


@torch.no_grad()
def fit_mixture(module: VAE, data: ImageData) -> Mixture:
    """Returns the mixture of M full normal distributions that is fitted to codes, float32.

    A code is one sample of q(z|x) of a training image; of many images, a random part has codes.
    """
    from sklearn.mixture import GaussianMixture

    images, _, condition = training_images(data, MOST_CODES)
    codes = []
    for number, (_, x, labels) in enumerate(split_images(images, condition, 1000)):
        shape = (1, len(x), module.latent_dim)
        noise = rng.normal(shape, "cpu", EVALUATION_SEED, "mixture", number).to(x)
        codes.append(module.encoder(x, labels).transform(noise)[0])
    z = torch.cat(codes).double().cpu()
    count = min(COMPONENTS, len(z))
    fitted = GaussianMixture(count, covariance_type="full", random_state=0).fit(z.numpy())
    device = data.images["train"].device

    def tensor(values: object) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.float32, device=device)

    factors = torch.linalg.cholesky(torch.as_tensor(fitted.covariances_))
    return Mixture(
        tensor(fitted.weights_).log(), FullNormal(tensor(fitted.means_), tensor(factors))
    )
