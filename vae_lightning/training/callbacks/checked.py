"""A callback that may refuse a model before the run starts."""

from lightning.pytorch import Callback

from vae_lightning.training.module import VAE


class CheckedCallback(Callback):
    """Base class of callbacks that do not fit every model."""

    def check(self, module: VAE) -> None:
        """Raises ConfigError if the callback does not fit the model; no run folder exists yet."""
