"""What the interpolations ``${...}`` of a configuration stand for. Imports nothing heavy."""

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vae_lightning.checks.errors import ConfigError

Node = Any  # a DictConfig, which has names, or a ListConfig, which has numbers
VARIABLE = re.compile(r"\$\{oc\.env:\s*([^,{}\s]+)\s*(,[^{}]*)?\}")  # a value that is a variable


def read_environment(cfg: DictConfig, paths: Collection[str]) -> None:
    """Replaces each value ``${oc.env:NAME}`` by what NAME would be if it were typed: 7 is a number.

    Leaves the options that are paths to OmegaConf. Raises ConfigError if NAME is not set.
    """
    for node, name, key in list(interpolations(cfg)):
        raw = raw_value(node, name)
        if key in paths or not (found := VARIABLE.fullmatch(raw)):
            continue
        try:
            text = str(node[name])
        except OmegaConfBaseException as error:
            raise ConfigError(
                f"{key}={raw}: the environment variable {found[1]} must be set"
            ) from error
        if "${" not in text:  # which would refer to other values
            node[name] = typed_value(text)


def interpolations(node: Node, path: str = "") -> Iterator[tuple[Node, str | int, str]]:
    """Yields the node, the name and the dotted key of each value that is an interpolation."""
    for name in range(len(node)) if OmegaConf.is_list(node) else list(node):
        key = f"{path}.{name}" if path else str(name)
        is_node = key != "hydra" and not OmegaConf.is_missing(node, name)
        if OmegaConf.is_interpolation(node, name):
            yield node, name, key
        elif is_node and OmegaConf.is_config(node[name]):
            yield from interpolations(node[name], key)


def raw_value(node: Node, name: str | int) -> str:
    """A value as it is written, with its interpolations."""
    content: Any = OmegaConf.to_container(node, resolve=False)
    return str(content[name])


def typed_value(text: str) -> object:
    """What a text means as a value on the command line; one that has no such meaning is itself."""
    try:
        (override,) = OverridesParser.create().parse_overrides([f"key={text}"])
        return text if override.is_sweep_override() else override.value()
    except HydraException:
        return text


def check_references(cfg: DictConfig) -> None:
    """Raises ConfigError for a value that refers to one that is not there."""
    for node, name, key in interpolations(cfg):
        try:
            node[name]
        except OmegaConfBaseException as error:
            raw = raw_value(node, name)
            reason = described(error)
            if re.search(r"\$\{hydra[.:]", raw):
                reason = "only hydra.run.dir and hydra.sweep.dir may refer to keys of Hydra"
            raise ConfigError(f"{key}={raw}: {reason}") from error


def folder(cfg: DictConfig, kind: str) -> Path:
    """The folder that ``hydra.run.dir`` or ``hydra.sweep.dir`` names.

    ``${hydra:KEY}`` is the same as ``${hydra.KEY}``. Raises ConfigError for a reference to
    something that is not there.
    """
    node = cfg.hydra[kind]
    raw = raw_value(node, "dir")
    node.dir = raw.replace("${hydra:", "${hydra.")
    try:
        return Path(node.dir)
    except OmegaConfBaseException as error:
        raise ConfigError(f"hydra.{kind}.dir={raw}: {described(error)}") from error


def described(error: OmegaConfBaseException) -> str:
    """What OmegaConf says about a reference, in one line."""
    first = str(error).partition("\n")[0]
    return re.sub(r"^\w+ (while|raised while) resolving interpolation: ", "", first)
