"""Parses the command line: flags of Hydra and overrides, in any order."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig

from vae_lightning.checks.errors import ConfigError
from vae_lightning.config.compose import COMPOSITION_ERRORS, CONF
from vae_lightning.config.environment import environment
from vae_lightning.version import __version__

# flags for which Hydra prints information instead of running the command
INFORMATION_FLAGS = ("help", "hydra_help", "cfg", "shell_completion", "info", "experimental_rerun")

# flags of Hydra that would replace the configuration of a command
REFUSED_FLAGS = ("config_name", "config_path", "package")


class Parser(argparse.ArgumentParser):
    """An argument parser that raises ConfigError instead of printing a usage message."""

    def error(self, message: str) -> NoReturn:
        """Raises ConfigError with the message."""
        raise ConfigError(message)


def parse(argv: list[str]) -> argparse.Namespace:
    """Returns Hydra's flags and the list ``overrides``; flags may stand between overrides.

    Raises ConfigError for an unknown flag.
    """
    hydra_parser = get_args_parser()
    parser = Parser(add_help=False, parents=[hydra_parser], conflict_handler="resolve")
    version = f"vae_lightning {__version__}"  # Hydra's own flag prints the version of Hydra
    parser.add_argument("--version", action="version", version=version)
    args = parser.parse_intermixed_args(argv)
    for flag in REFUSED_FLAGS:
        if getattr(args, flag) is not None:
            name = flag.replace("_", "-")
            raise ConfigError(
                f"--{name}={getattr(args, flag)}: must not be given; --config-dir adds a folder,"
                " and experiment=NAME chooses a file"
            )
    return args


def asks_for_information(args: argparse.Namespace) -> bool:
    """Returns whether the flags only ask for information, such as --help and --cfg."""
    return any(getattr(args, flag) for flag in INFORMATION_FLAGS)


@contextmanager
def program_arguments(argv: list[str]) -> Iterator[None]:
    """Puts these arguments into ``sys.argv`` for the body, because Hydra reads them there."""
    before = sys.argv
    sys.argv = [before[0], *argv]
    try:
        yield
    finally:
        sys.argv = before


def hydra_main(name: str, argv: list[str], task: Callable[[DictConfig], object]) -> None:
    """Runs the entry point of Hydra, which handles --help, --cfg and sweeps.

    Raises ConfigError for its errors.
    """
    overrides = list(parse(argv).overrides)
    flags = list(argv)
    for override in overrides:
        flags.remove(override)
    with program_arguments([*flags, *overrides]), environment(HYDRA_FULL_ERROR="1"):
        try:
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(task)()
        except COMPOSITION_ERRORS as error:
            raise ConfigError(str(error)) from error
