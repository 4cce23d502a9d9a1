"""vae_lightning: a variational-autoencoder laboratory on PyTorch Lightning and Hydra."""

__version__ = "0.1.0"
