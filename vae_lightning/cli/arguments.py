"""Parses the command line: flags of Hydra and overrides, in any order."""

import argparse
import difflib
import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig, OmegaConf

from vae_lightning.checks.errors import ConfigError
from vae_lightning.config import suggestions
from vae_lightning.config.compose import (
    as_hydra_reads,
    choices,
    compose,
    folder_of,
    keys_of,
    search_path,
)
from vae_lightning.config.environment import environment
from vae_lightning.config.hydra_table import FLAGS
from vae_lightning.config.interpolations import check_references, folder
from vae_lightning.version import __version__

REFUSED = "must not be given"
# flags that print something instead of running the command
INFORMATION_FLAGS = ("help", "hydra_help", "cfg", "info")
CLOSE = 0.75  # similarity of a mistyped flag of Hydra; 1 is equal


class Parser(argparse.ArgumentParser):
    """An argument parser that raises ConfigError instead of printing a usage message.

    ``prog`` is the name of the command.
    """

    def error(self, message: str) -> NoReturn:
        """Raises ConfigError with the message."""
        flag = re.match(r"argument (--[\w-]+).*: ignored explicit argument '(.*)'", message)
        if flag is None:
            raise ConfigError(message)
        meant = f"; did you mean run={flag[2]}?" if "run" in keys_of(self.prog) else ""
        raise ConfigError(f"{flag[1]}={flag[2]}: the flag takes no value{meant}")


def parse(argv: list[str], name: str) -> argparse.Namespace:
    """Returns the flags and the list ``overrides`` of a command; flags may stand between overrides.

    Raises ConfigError for an unknown or refused flag, and for flags that exclude each other.
    """
    parser = Parser(
        name,
        add_help=False,
        parents=[get_args_parser()],
        conflict_handler="resolve",
        allow_abbrev=False,  # --experiment is no flag of Hydra
    )
    version = f"vae_lightning {__version__}"  # Hydra's own flag prints the version of Hydra
    parser.add_argument("--version", action="version", version=version)
    args, unknown = parser.parse_known_intermixed_args(argv)
    if unknown:
        flags = [word for word in unknown if word.startswith("-")]  # the others may be their values
        raise ConfigError(describe_unknown(flags or unknown, argv, name))
    for flags, use in FLAGS.items():
        flag = flags.partition(",")[0]
        value = getattr(args, attribute(flag), None)
        if value and not use.is_honored:
            raise ConfigError(
                f"{flag}{'' if value is True else f'={value}'}: {REFUSED}; {use.text}"
            )
    check_together(args, name)
    return args


def attribute(flag: str) -> str:
    """The name under which argparse stores a flag."""
    return flag.strip("-").replace("-", "_")


def check_together(args: argparse.Namespace, name: str) -> None:
    """Raises ConfigError for a flag that has no effect beside the others, or for this command."""
    for flag in ("resolve", "package"):
        if getattr(args, flag) and (args.cfg is None or args.multirun):
            raise ConfigError(f"--{flag}: requires --cfg, without -m")
    if args.multirun and args.cfg not in (None, "job"):
        raise ConfigError(f"--cfg {args.cfg}: must be job with -m, which lists the jobs")
    kinds = {"run": args.run, "multirun": args.multirun, "info": args.info, "cfg": args.cfg}
    given = [f"--{kind}" for kind, value in kinds.items() if value]
    if len(given) > 1 and given != ["--multirun", "--cfg"]:
        raise ConfigError(f"{' '.join(given)}: {REFUSED} together")
    if args.multirun and "hydra.mode=RUN" in args.overrides:
        raise ConfigError(f"hydra.mode=RUN: {REFUSED} together with -m, which starts a sweep")
    if name != "config" and args.config_dir is not None:
        raise ConfigError(f"--config-dir={args.config_dir}: must be used with train")


def describe_unknown(unknown: list[str], argv: list[str], name: str) -> str:
    """The message about flags that do not exist, with the words that are meant.

    ``--epochs 3`` stands for trainer.max_epochs=3, as in other programs.
    """
    typed, meant, advised = [], [], []
    for flag in unknown:
        key, equals, value = flag.lstrip("-").partition("=")
        following = argv[argv.index(flag) + 1 :][:1]
        if not equals and following and "=" not in following[0] and following[0][0] != "-":
            typed.append(f"{flag} {following[0]}")
            value = following[0]
        else:
            typed.append(flag)
        key = key.replace("-", "_")
        found = meant_flag(key, name)
        if found is None and (advice := suggestions.advice(key)):
            advised.append(advice)
        elif found is not None:
            missing = "" if found[0] == "-" else "NAME" if choices(found) else "VALUE"
            meant.append("=".join(filter(None, (found, value or missing))))
    message = f"{' '.join(typed)}: no such flag"
    if meant:
        message += f"; did you mean {' '.join(meant)}?"
    return "; ".join([message, *advised])


def meant_flag(key: str, name: str) -> str | None:
    """The key or the flag that an unknown flag stands for."""
    valid = keys_of(name)
    if key in valid:
        return key
    exact = suggestions.same_key(key, valid)
    if exact or suggestions.advice(key):
        return exact
    flags = [flags.partition(",")[0] for flags, use in FLAGS.items() if use.is_honored]
    close = difflib.get_close_matches(f"--{key.replace('_', '-')}", flags, n=1, cutoff=CLOSE)
    return close[0] if close else suggestions.close_key(key, valid)


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


def print_information(name: str, args: argparse.Namespace) -> None:
    """Prints what --cfg, --info or --hydra-help asks for.

    Raises ConfigError if the configuration is wrong.
    """
    cfg = compose(name, [*search_path(args.config_dir), *args.overrides])
    if args.cfg and not args.hydra_help:
        print(configuration_text(cfg, args), end="")
        return
    flags = ["--hydra-help"] if args.hydra_help else [f"--info={args.info}"]
    flags += [f"--config-dir={args.config_dir}"] if args.config_dir else []
    words = [as_hydra_reads(word) for word in args.overrides]
    # Hydra logs each line, and logging would report a reader that has gone, such as head
    text = io.StringIO()
    try:
        with (
            redirect_stdout(text),
            program_arguments([*flags, *words]),
            environment(HYDRA_FULL_ERROR="1"),
        ):
            hydra.main(version_base="1.3", config_path=str(folder_of(name)), config_name=name)(
                lambda _: None
            )()
    finally:
        print(text.getvalue(), end="")


def configuration_text(cfg: DictConfig, args: argparse.Namespace) -> str:
    """The part of a configuration that --cfg and --package ask for; raises ConfigError if none."""
    if args.resolve:
        check_references(cfg)
        for kind in ("run", "sweep"):
            folder(cfg, kind)
        OmegaConf.resolve(cfg)
    hidden = {"job": ["hydra"], "hydra": [key for key in cfg if key != "hydra"]}.get(args.cfg, [])
    part = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in hidden])
    if args.package:
        part = OmegaConf.select(part, args.package)
        if not OmegaConf.is_config(part):
            raise ConfigError(f"--package={args.package}: must be a section of the configuration")
    return OmegaConf.to_yaml(part)
