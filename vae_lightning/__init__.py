"""vae_lightning: a variational-autoencoder laboratory on PyTorch Lightning and Hydra."""

from pathlib import Path
from typing import TYPE_CHECKING

from vae_lightning.version import __version__

if TYPE_CHECKING:
    from vae_lightning.runs.run import Run

__all__ = ["__version__", "load_run"]


def load_run(
    run: str | Path,
    checkpoint: str = "best",
    trust: bool = False,
    data_root: str | Path | None = None,
) -> "Run":
    """Loads a run from its folder or from a .safetensors file: see ``runs.load.load_run``."""
    # imported here, so that a command imports torch only when it needs it
    from vae_lightning.runs import load

    return load.load_run(run, checkpoint, trust, data_root)
