"""The border to Hydra: compose a command's configuration, turn errors into one line and an exit code.

0 done, 2 a mistake in the command or configuration, 1 anything else, 130 interrupted. Imports nothing heavy.
"""

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
import yaml
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vae_lightning.config import nearest
from vae_lightning.runs import ConsoleHandler, Interrupted

PACKAGE = Path(__file__).resolve().parent
# inside the wheel, or at the top of a checkout
CONF = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())
HYDRA_ONLY = ("help", "hydra_help", "cfg", "shell_completion", "info", "experimental_rerun")
REFUSAL_VARIABLE = "VAE_LIGHTNING_REFUSAL"  # a file for the one line, so that a sweep can record why a job was refused
WRONG = (HydraException, OmegaConfBaseException, yaml.YAMLError)


class UsageError(Exception):
    """A mistake in the command or the configuration: its text is the one line that the user reads."""


@contextmanager
def usage(*also: type[Exception]) -> Iterator[None]:
    """Within, errors of composition, and of the given types, are the user's mistakes."""
    try:
        yield
    except (*WRONG, *also) as error:
        raise UsageError(" ".join(str(error).split())) from error


def parse(argv: list[str]) -> argparse.Namespace:
    """Hydra's own flags and overrides."""
    return get_args_parser().parse_args(argv)


def search_path(args: argparse.Namespace) -> list[str]:
    """A user's --config-dir as the override that adds it to Hydra's search path."""
    return [f"hydra.searchpath=['file://{Path(args.config_dir).resolve()}']"] if args.config_dir else []


def compose(name: str, overrides: list[str]) -> DictConfig:
    """The configuration of a command with its ``hydra`` node; UsageError with the nearest valid name for a typo."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            return hydra.compose(name, overrides, return_hydra_config=True)
        except MissingConfigException as error:
            group, _, choice = (error.missing_cfg_file or "").rpartition("/")
            options = [option for option in error.options or [] if option]
            allowed = f"must be one of {', '.join(options)}" if options else "no such configuration"
            raise UsageError(f"{group}={choice}: {allowed}{nearest(choice, options)}") from error
        except WRONG as error:
            raise UsageError(explain(error, name)) from error


def explain(error: Exception, name: str) -> str:
    """Hydra's message on one line, with the key that was probably meant."""
    text = str(error)
    unknown = re.search(r"Could not override '([^']*)'", text)
    if unknown:
        key = unknown.group(1)
        valid = known_keys(OmegaConf.to_container(hydra.compose(name)))
        return f"{key}: no such key{nearest(key, valid)}"
    return " ".join(text.split("\n\n")[0].split())


def known_keys(node: dict[str, object], prefix: str = "") -> list[str]:
    """All dotted keys of a configuration."""
    keys = []
    for name, value in node.items():
        keys.append(prefix + name)
        if isinstance(value, dict):
            keys += known_keys(value, f"{prefix}{name}.")
    return keys


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Environment variables for the body; afterwards the environment is as it was, whatever the body did to it."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def hydra_main(name: str, task: Callable[[DictConfig], object]) -> None:
    """Runs Hydra's own entry point: help, --cfg and sweeps. Its errors come as exceptions, not as exits."""
    with usage(), environment(HYDRA_FULL_ERROR="1"):
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(task)()


def command(name: str, argv: list[str]) -> DictConfig | None:
    """The configuration of a command that looks at a run; None if it was only asked for help, which is then printed."""
    args = parse(argv)
    if any(getattr(args, flag) for flag in HYDRA_ONLY):
        hydra_main(name, lambda _: None)
        return None
    if args.multirun:
        raise UsageError("-m: only train sweeps")
    cfg = compose(name, args.overrides)
    for key in cfg:
        if OmegaConf.is_missing(cfg, key):
            raise UsageError(f"{key}: must be given, as in {key}=outputs/2026-01-31/12-00-00")
    return cfg


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turns what the body raises into the exit code of the process and one line on standard error."""
    logger = logging.getLogger("vae_lightning")
    handler = ConsoleHandler(logging.INFO)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        if REFUSAL_VARIABLE in os.environ:
            Path(os.environ[REFUSAL_VARIABLE]).write_text(str(error))
        sys.exit(2)
    except (Interrupted, KeyboardInterrupt):
        sys.exit(130)
    finally:
        logger.removeHandler(handler)
