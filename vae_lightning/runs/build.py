"""Builds a model from a stored configuration and stored weights."""

from omegaconf import DictConfig
from torch import Tensor

from vae_lightning.checks.errors import ConfigError, one_line
from vae_lightning.config.compose import COMPOSITION_ERRORS
from vae_lightning.training.assembly import build_module
from vae_lightning.training.module import VAE
from vae_lightning.training.trainer import silence_notices
from vae_lightning.version import __version__

# the exceptions that a configuration written by another version may cause
BUILD_ERRORS = (*COMPOSITION_ERRORS, AttributeError, KeyError, TypeError, ValueError)


def build(cfg: DictConfig, state: dict[str, Tensor], source: str, version: str, trust: bool) -> VAE:
    """Builds the model of a configuration, in evaluation mode, and loads the weights.

    Args:
        cfg: the configuration of the run.
        state: the weights.
        source: the origin of both as ``run=PATH``, for error messages.
        version: the version of this package that wrote them, for error messages.
        trust: let the configuration name classes of other packages.

    Raises ConfigError if this version cannot build the model or if the weights do not fit.
    """
    cfg.trust = trust
    silence_notices()
    try:
        module = build_module(cfg)
    except BUILD_ERRORS as error:
        # an error in a user's own class keeps its traceback
        if trust or "trust=true" in str(error):
            raise
        raise ConfigError(
            f"{source}: was written by version {version}, and version {__version__} "
            f"cannot build it ({one_line(error)}); use version {version}"
        ) from error
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(
            f"{source}: its weights do not fit its configuration; "
            f"use version {version}, which wrote it"
        ) from error
    return module.eval()
