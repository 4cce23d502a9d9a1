"""vae_lightning: a variational-autoencoder laboratory on PyTorch Lightning and Hydra."""

import importlib
from typing import TYPE_CHECKING

from vae_lightning.version import __version__

if TYPE_CHECKING:
    from vae_lightning.api.estimator import VAEEstimator
    from vae_lightning.api.training import build, fit
    from vae_lightning.data.images import ImageData
    from vae_lightning.runs.load import load_run
    from vae_lightning.training.module import VAE

__all__ = ["VAE", "ImageData", "VAEEstimator", "__version__", "build", "fit", "load_run"]

# name -> its module, imported when the name is asked for: a command imports PyTorch only if needed
MODULES = {
    "VAE": "vae_lightning.training.module",
    "ImageData": "vae_lightning.data.images",
    "VAEEstimator": "vae_lightning.api.estimator",
    "build": "vae_lightning.api.training",
    "fit": "vae_lightning.api.training",
    "load_run": "vae_lightning.runs.load",
}


def __getattr__(name: str) -> object:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(MODULES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *MODULES]
