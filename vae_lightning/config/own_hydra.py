"""Composes with a Hydra of its own, whatever the program that calls has done with Hydra.

``hydra.initialize_config_dir`` refuses within a program of ``hydra.main``, and replaces the state
of a program that has initialized Hydra itself.
"""

import copy
import threading
from pathlib import Path

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

COMPOSING = threading.Lock()  # Hydra keeps the version that it is compatible with for all threads


def load(folder: Path, name: str, words: list[str]) -> DictConfig:
    """The configuration NAME.yaml of a folder with these overrides; raises the errors of Hydra."""
    if not OmegaConf.has_resolver("now"):
        setup_globals()
    loader = ConfigLoaderImpl(create_config_search_path(str(folder)))
    with COMPOSING:
        before = version.VersionBase.instance()
        version.VersionBase.set_instance(copy.copy(before))
        version.setbase("1.3")
        try:
            return loader.load_configuration(name, words, RunMode.RUN, from_shell=False)
        finally:
            version.VersionBase.set_instance(before)
