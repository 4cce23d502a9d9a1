"""The variational autoencoder as an estimator of scikit-learn.

Shapes: N samples, D features, L latent dimensions, C H W of an image.
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from omegaconf import DictConfig
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from vae_lightning import rng
from vae_lightning.api.rows import BINARY, GRAY, MORE_KEYS, REFUSED, checked_configuration, train
from vae_lightning.api.training import TURN, checked_words, raising_interrupts, unchanged_process
from vae_lightning.checks.errors import ConfigError
from vae_lightning.checks.ranges import Integer
from vae_lightning.config.hydra_table import key_of
from vae_lightning.distributions import BernoulliLikelihood
from vae_lightning.evaluation.latents import moments
from vae_lightning.evaluation.likelihood import decoded_at_once, log_likelihood
from vae_lightning.training.module import EVALUATION_SEED
from vae_lightning.training.signals import CallSignals

ROWS = 500  # that go through a network at once


class VAEEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A variational autoencoder of the rows of a matrix, which may be images.

    ``fit`` maps the range of all training values to [0, 1], linearly, and keeps them as 256 levels,
    as images are. It trains on all rows; there is no validation, and no file is written. Numbers
    are computed in float64 after the training, so that a row has the same result in any batch.

    Args:
        latent_dim: L.
        max_epochs: passes over the rows.
        batch_size: rows of an optimizer step.
        learning_rate: of the optimizer.
        overrides: options of the model and its training, as on the command line, such as
            ``("model=conv", "likelihood=laplace")``. Without a likelihood, it is a normal
            distribution with the standard deviation of the residuals, or, if all training values
            are the smallest or the largest one, a Bernoulli distribution.
        image_shape: C, H, W of the image in each row; None: (1, 1, D).
        num_samples: importance samples of ``score_samples``.
        random_state: seed of the weights, the order of the rows and the noise.

    Attributes:
        module_: the trained module, in float64.
        data_min_, data_range_: the smallest training value, and the largest one less the smallest.
        image_shape_: C, H, W.
        n_features_in_: D.

    ``fit`` raises ConfigError, a ValueError, for invalid arguments and overrides, NotFinite if a
    term of the loss is not finite, and KeyboardInterrupt after Ctrl-C.

    >>> rows = np.random.default_rng(0).random((60, 64))
    >>> VAEEstimator(latent_dim=2, max_epochs=1).fit_transform(rows).shape
    (60, 2)
    """

    def __init__(
        self,
        latent_dim: int = 2,
        *,
        max_epochs: int = 100,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        overrides: Sequence[str] = (),
        image_shape: tuple[int, int, int] | None = None,
        num_samples: int = 100,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.latent_dim = latent_dim
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.overrides = overrides
        self.image_shape = image_shape
        self.num_samples = num_samples
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: object = None) -> Self:  # noqa: N803 - scikit-learn's name
        """Trains on the rows of X (N, D); y is ignored."""
        rows = self.checked(X, is_new=True)
        self.data_min_ = float(rows.min())
        self.data_range_ = float(rows.max()) - self.data_min_ or 1.0
        levels = (self.scaled(rows) * 255).round().to(torch.uint8)
        cfg = self.configuration(bool(((levels == 0) | (levels == 255)).all()))
        shape = tuple(cfg.data.image_shape or (1, 1, rows.shape[1]))
        if math.prod(shape) != rows.shape[1]:
            raise ConfigError(
                f"image_shape={shape}: must have {rows.shape[1]} values, the features of X"
            )
        self.image_shape_ = cfg.data.image_shape = shape
        with TURN, raising_interrupts(), unchanged_process(), CallSignals():
            self.module_ = train(cfg, levels.view(-1, *shape))
        return self

    def configuration(self, is_binary: bool) -> DictConfig:
        """The configuration of the arguments for rows of two values or others.

        Raises ConfigError for an invalid argument.
        """
        if not Integer(1).contains(self.num_samples):
            raise ConfigError(f"num_samples={self.num_samples}: must be an integer >= 1")
        shape = self.image_shape
        own = {
            "model.latent_dim": self.latent_dim,
            "trainer.max_epochs": self.max_epochs,
            "data.batch_size": self.batch_size,
            "optimizer.lr": self.learning_rate,
            "data.image_shape": "null" if shape is None else f"[{','.join(map(str, shape))}]",
        }
        words = checked_words(self.overrides)
        for word in words:
            key = key_of(word)
            section = key.partition(".")[0]
            is_known = key in MORE_KEYS or section not in ("data", "trainer")
            if key in own or section in REFUSED or not is_known:
                raise ConfigError(
                    f"{word}: must not be given to VAEEstimator, which takes options of the model,"
                    f" the optimizer and the schedule, and {', '.join(MORE_KEYS)}"
                )
        words += [f"{key}={value}" for key, value in own.items()]
        if not any(key_of(word) == "likelihood" for word in words):
            words = [*(BINARY if is_binary else GRAY), *words]
        cfg = copy.deepcopy(checked_configuration(*words))
        cfg.seed = int(check_random_state(self.random_state).randint(2**31))
        return cfg

    def transform(self, X: ArrayLike) -> np.ndarray:  # noqa: N803
        """E[z|x] of the rows of X (N, D): (N, L)."""
        return self.apply(lambda x: moments(self.module_.encoder(x)).mean, self.images(X))

    def inverse_transform(self, X: ArrayLike) -> np.ndarray:  # noqa: N803
        """E[x|z] of codes z (N, L), in the units of the training rows: (N, D)."""
        check_is_fitted(self)
        z = np.asarray(check_array(X, dtype=np.float64))  # pyright: ignore[reportArgumentType] - scikit-learn declares no types
        if z.shape[1] != self.module_.latent_dim:
            raise ValueError(
                f"X has {z.shape[1]} features, but {self.module_.latent_dim} latent dimensions are"
                " expected"
            )
        x = self.apply(
            lambda part: self.module_.decoder(part[None]).mean[0].flatten(1), torch.as_tensor(z)
        )
        return x * self.data_range_ + self.data_min_

    def score_samples(self, X: ArrayLike) -> np.ndarray:  # noqa: N803
        """log p(x) of the rows of X (N, D), in nats: (N,).

        It is estimated with ``num_samples`` importance samples, the same noise for each row, and is
        a lower bound in expectation. A density is one of the features in their own units. With
        ``likelihood.gray=true``, which is not normalized, it is the ELBO of the scaled rows.
        """
        x = self.images(X)
        decoder = self.module_.decoder
        is_bernoulli = isinstance(decoder, BernoulliLikelihood)
        if not decoder.is_normalized:
            return self.apply(self.elbo, x, max(1, decoded_at_once(x) // self.num_samples))
        if is_bernoulli and bool(((x != 0) & (x != 1)).any()):
            raise ConfigError(
                f"X: must hold {self.data_min_:g} and {self.data_min_ + self.data_range_:g} only,"
                " because likelihood=bernoulli gives no probability to other values"
            )
        is_density = not (decoder.discrete or is_bernoulli)
        volume = x[0].numel() * math.log(self.data_range_) if is_density else 0.0
        return self.apply(self.log_prob, x) - volume

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) of scaled images x (B, C, H, W): (B,)."""
        same_noise = torch.zeros(len(x), dtype=torch.int64)
        return log_likelihood(self.module_, x, same_noise, self.num_samples)

    def elbo(self, x: Tensor) -> Tensor:
        """The ELBO of scaled images x (B, C, H, W), without the likelihood's constant: (B,)."""
        shape = (self.num_samples, 1, self.module_.latent_dim)
        noise = rng.normal(shape, "cpu", EVALUATION_SEED, "nll").to(x)
        terms = self.module_(x, noise.expand(-1, len(x), -1))
        return -(terms.mean_recon + terms.kl)

    def score(self, X: ArrayLike, y: object = None) -> float:  # noqa: N803
        """The mean of ``score_samples``; y is ignored."""
        return float(self.score_samples(X).mean())

    def sample(
        self, n_samples: int = 1, random_state: int | np.random.RandomState | None = None
    ) -> np.ndarray:
        """E[x|z] for draws z from the prior, in the units of the training rows: (n_samples, D)."""
        check_is_fitted(self)
        if not Integer(1).contains(n_samples):
            raise ValueError(f"n_samples={n_samples}: must be an integer >= 1")
        generator = rng.generator("cpu", check_random_state(random_state).randint(2**31), "samples")
        with torch.no_grad():
            prior = self.module_.prior(self.module_.encoder)
            return self.inverse_transform(prior.sample(n_samples, generator).numpy())

    def images(self, X: ArrayLike) -> Tensor:  # noqa: N803
        """The rows of X (N, D) as scaled images, float64: (N, C, H, W)."""
        check_is_fitted(self)
        return self.scaled(self.checked(X, is_new=False)).view(-1, *self.image_shape_)

    def checked(self, X: ArrayLike, is_new: bool) -> np.ndarray:  # noqa: N803
        """The rows of X (N, D), which new training rows define and others must be like."""
        rows = validate_data(self, X, dtype=np.float64, reset=is_new)  # pyright: ignore[reportArgumentType] - scikit-learn declares no types
        return np.asarray(rows)

    def scaled(self, rows: np.ndarray) -> Tensor:
        """Rows (N, D), scaled so that the training values lie in [0, 1]: (N, D)."""
        return torch.from_numpy((rows - self.data_min_) / self.data_range_)

    @torch.no_grad()
    def apply(
        self, function: Callable[[Tensor], Tensor], x: Tensor, rows: int = ROWS
    ) -> np.ndarray:
        """Applies a function to parts of x (N, ...), and joins the results (N, ...)."""
        return torch.cat([function(part) for part in x.split(rows)]).numpy()

    @property
    def _n_features_out(self) -> int:
        """What ``get_feature_names_out`` counts."""
        return self.module_.latent_dim
