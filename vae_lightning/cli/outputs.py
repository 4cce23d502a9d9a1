"""The option ``output`` of the commands that write files: what it may be, and where it leads."""

import os
from pathlib import Path

from omegaconf import DictConfig

from vae_lightning.checks.errors import ConfigError
from vae_lightning.checks.ranges import AnyOf, Choice, Option, Text

FOLDER = "/"  # ends the path of a folder


def output_option(default: str, *endings: str) -> Option:
    """Describes ``output``: a file with one of the suffixes, or a folder; null: RUN/``default``."""
    files = " or ".join(ending for ending in endings if ending != FOLDER)
    folder = ", or a folder that ends in /" if FOLDER in endings else ""
    allowed = Text(f"a file that ends in {files}{folder}", endings)
    return Option(f"what is written; null: RUN/{default}", AnyOf((allowed, Choice((None,)))))


def output_of(cfg: DictConfig, default: str) -> str:
    """Returns ``cfg.out`` or, if it is None, RUN/``default``.

    Raises ConfigError if something else is there: a folder in place of a file, or a folder that is
    not empty.
    """
    output = cfg.out or str(Path(cfg.run, default))
    path = Path(output)
    if not output.endswith(FOLDER):
        if path.is_dir():
            raise ConfigError(f"out={output}: must be a file, but a folder is there")
    elif os.path.lexists(path) and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"out={output}: must be a new or empty folder")
    return output
