"""Probabilistic PCA: the exact optimum of the linear VAE, from the eigenvalues of the data.

In the linear VAE, the decoder mean is W z + b, the encoder mean is V x + c, all images share one
diagonal posterior covariance, and the likelihood is N(W z + b, sigma^2 I).
Tipping & Bishop 1999, https://doi.org/10.1111/1467-9868.00196; Lucas et al. 2019,
https://arxiv.org/abs/1911.02469.

All computations use float64. Shapes: N images, D pixels, L latent dimensions.
"""

from typing import NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from vae_lightning.checks.errors import ConfigError
from vae_lightning.data.images import image_data
from vae_lightning.distributions import kl_to_standard_normal
from vae_lightning.evaluation.batches import at_once
from vae_lightning.objectives import ELBO
from vae_lightning.training.callbacks.checked import CheckedCallback
from vae_lightning.training.module import VAE

SQUARED_ERROR_VARIANCE = 0.5  # sigma^2 for which the default loss is -ELBO + constant


class LinearVAE(NamedTuple):
    """Parameters of a linear VAE.

    p(x|z) = N(decoder z + bias, sigma^2 I), q(z|x) = N(encoder x + offset, diag(std^2)).
    """

    decoder: Tensor  # W, (D, L)
    bias: Tensor  # b, (D,)
    encoder: Tensor  # V, (L, D)
    offset: Tensor  # c, (L,)
    std: Tensor  # (L,)


def moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the mean (D,) and the covariance (D, D) of the pixels of uint8 images (N, ...).

    Pixels are x = byte/255. The covariance is normalized by N, not by N - 1.
    """
    flat = images.flatten(1)
    total = torch.zeros(flat.shape[1], dtype=torch.float64, device=flat.device)
    second = torch.zeros(flat.shape[1], flat.shape[1], dtype=torch.float64, device=flat.device)
    for part in flat.split(at_once(images, 10_000)):
        x = part.double() / 255
        total += x.sum(0)
        second += x.T @ x
    mean = total / len(flat)
    return mean, second / len(flat) - mean.outer(mean)


def optimum(images: Tensor, latent_dim: int, beta: float = 1.0) -> LinearVAE:
    """Returns the linear VAE that minimizes recon + beta KL on uint8 images (N, ...).

    recon is the summed squared error and sigma^2 = beta/2. The covariance of the data has the
    eigenvalues lambda and the eigenvectors U. With the k <= L largest eigenvalues that exceed
    sigma^2:

        W = U_k (Lambda_k - sigma^2)^(1/2)
        std^2 = sigma^2 / lambda
        V = M^-1 W', M = W'W + sigma^2 I

    The remaining L - k latent dimensions are not used: W = 0, std = 1.
    """
    mean, covariance = moments(images)
    eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
    variance = beta * SQUARED_ERROR_VARIANCE
    used = eigenvalues.flip(0)[:latent_dim].clamp(min=variance)
    decoder = eigenvectors.flip(1)[:, :latent_dim] * (used - variance).sqrt()
    encoder = decoder.T / used[:, None]
    return LinearVAE(decoder, mean, encoder, -encoder @ mean, (variance / used).sqrt())


def closed_form_terms(model: LinearVAE, images: Tensor) -> tuple[float, float]:
    """Returns recon and KL of a linear VAE, in nats per image, averaged over uint8 images (N, ...).

    The expectation over z has a closed form:

        E_q ||x - W z - b||^2 = ||x - W m(x) - b||^2 + sum_l std_l^2 ||W_l||^2, m(x) = V x + c
    """
    spread = (model.std.square() * model.decoder.square().sum(0)).sum()
    recon = kl = 0.0
    for part in images.flatten(1).split(at_once(images, 10_000)):
        x = part.double() / 255
        mean = x @ model.encoder.T + model.offset
        recon += float((x - mean @ model.decoder.T - model.bias).square().sum() + spread * len(x))
        kl += float(kl_to_standard_normal(mean, model.std.expand_as(mean)).sum())
    return recon / len(images), kl / len(images)


def active_units(model: LinearVAE, images: Tensor) -> float:
    """Returns the number of active units on uint8 images (N, ...): Var_x(E_q[z]) > 0.01."""
    _, covariance = moments(images)
    return float(((model.encoder @ covariance * model.encoder).sum(1) > 0.01).sum())


def parameters_of(module: VAE) -> LinearVAE:
    """Returns the parameters of a module of ``experiment=ppca``, in float64.

    Raises ConfigError if the module is not the linear VAE described at the top of this file.
    """
    encoders, decoders = (
        [layer for layer in part.modules() if isinstance(layer, nn.Linear)]
        for part in (module.encoder, module.decoder)
    )
    shared, activation = (
        getattr(module.encoder, "raw_std", None),
        getattr(module.decoder, "mean_activation", None),
    )
    if len(encoders) != 1 or len(decoders) != 1 or shared is None or activation != "identity":
        raise ConfigError(
            "callbacks=ppca: requires model=linear, posterior.shared_std=true,"
            " likelihood.mean_activation=identity"
        )
    (encoder,), (decoder,) = encoders, decoders
    with torch.no_grad():
        std = module.encoder(
            torch.zeros(1, 1, 1, encoder.in_features, device=encoder.weight.device)
        ).std[0]
    weights = (decoder.weight, decoder.bias, encoder.weight, encoder.bias, std)
    return LinearVAE(*(weight.detach().double() for weight in weights))


class ExactOptimum(CheckedCallback):
    """Logs the exact optimum and the closed-form terms of the trained model after the test.

    ``ppca/train_loss``, ``ppca/test_recon`` etc. are the terms of the optimum, which is computed
    from the training images. ``closed_form/...`` are the terms of the trained model, without
    sampling noise. ``closed_form/train_loss`` is never below ``ppca/train_loss``.
    """

    def check(self, module: VAE) -> None:
        """Raises ConfigError if the model is not the linear VAE, trained with the ELBO."""
        if not isinstance(module.objective, ELBO):
            raise ConfigError("callbacks=ppca: requires objective=elbo, whose optimum is known")
        parameters_of(module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs loss, recon, KL and active units of the optimum and of the trained model."""
        assert isinstance(pl_module, VAE)
        images = image_data(trainer).images
        trained = parameters_of(pl_module)
        beta = pl_module.objective.beta
        exact = optimum(images["train"], pl_module.latent_dim, beta)
        for name, model in (("ppca", exact), ("closed_form", trained)):
            values = {"active_units": active_units(model, images["test"])}
            for split in ("train", "test"):
                recon, kl = closed_form_terms(model, images[split])
                values |= {
                    f"{split}_recon": recon,
                    f"{split}_kl": kl,
                    f"{split}_loss": recon + beta * kl,
                }
            for key, value in values.items():
                pl_module.log(f"{name}/{key}", value, batch_size=1)
