"""Fast paths of training and evaluation; they change no result beyond rounding.

``accelerate`` is the entry point for training.
"""

from vae_lightning.compile.fast_path import accelerate

__all__ = ["accelerate"]
