"""vae_lightning: a variational-autoencoder laboratory on PyTorch Lightning and Hydra."""

__version__ = "0.1.0"

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vae_lightning.run_api import Run

__all__ = ["__version__", "load_run"]


def load_run(run: str | Path, checkpoint: str = "best", trust: bool = False) -> "Run":
    """The model in a run folder, or in a .safetensors file that export wrote: see run_api.load."""
    from vae_lightning import run_api  # here, so that a command imports torch only when it is needed

    return run_api.load(run, checkpoint, trust)
