"""Composes the configuration of a command with Hydra.

A mistake in an override or a file raises ConfigError. This module imports no heavy packages.
"""

import copy
import re
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.utils import setup_globals
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vae_lightning.checks.errors import ConfigError, nearest
from vae_lightning.config.trainer_options import REFUSED_TRAINER_KEYS

PACKAGE = Path(__file__).resolve().parent.parent
# in an installed wheel the folder is inside the package, in a checkout it is next to the package
CONF = next(path for path in (PACKAGE / "conf", PACKAGE.parent / "conf") if path.is_dir())
# options whose values are paths
PATH_KEYS = (
    *("run", "resume", "status", "init_from", "from_config", "output", "images"),
    *("data.root", "trainer.default_root_dir", "hydra.run.dir", "hydra.sweep.dir"),
)
# groups that say what is trained and how; the others say on what, where, and what is drawn
TRAINING_GROUPS = (
    "model",
    "likelihood",
    "posterior",
    "prior",
    "objective",
    "annealing",
    "optimizer",
    "scheduler",
)
# the exceptions that Hydra, OmegaConf and PyYAML raise for an invalid override or file
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError)
COMPOSING = threading.Lock()  # Hydra keeps the version that it is compatible with for all threads


def compose(name: str, overrides: list[str]) -> DictConfig:
    """Returns the configuration of a command, including its ``hydra`` node.

    Raises ConfigError for an invalid override; the message suggests the nearest valid name.
    """
    words = [literal_path(override) for override in overrides]
    try:
        return load(name, words)
    except MissingConfigException as error:
        group, _, choice = (error.missing_cfg_file or "").rpartition("/")
        options = [option for option in error.options or [] if option and option[0] != "_"]
        allowed = f"must be one of {', '.join(options)}" if options else "no such configuration"
        raise ConfigError(f"{group}={choice}: {allowed}{nearest(choice, options)}") from error
    except COMPOSITION_ERRORS as error:
        raise ConfigError(explain(error, name)) from error
    except ValueError as error:
        if "Config group override" not in str(error):
            raise
        raise ConfigError(describe_group_error(overrides)) from error


def load(name: str, overrides: list[str]) -> DictConfig:
    """Composes with a Hydra of its own; raises what Hydra raises.

    The Hydra of a program that calls this package, such as one with ``hydra.main``, stays as it is.
    """
    if not OmegaConf.has_resolver("now"):
        setup_globals()
    loader = ConfigLoaderImpl(create_config_search_path(str(CONF)))
    with COMPOSING:
        before = version.VersionBase.instance()
        version.VersionBase.set_instance(copy.copy(before))
        version.setbase("1.3")
        try:
            return loader.load_configuration(name, overrides, RunMode.RUN, from_shell=False)
        finally:
            version.VersionBase.set_instance(before)


def literal_path(override: str) -> str:
    """Quotes the value of an option that is a path, so that Hydra takes all characters literally.

    Values that are quoted already, and the variables of Hydra in its own options, keep their
    meaning.
    """
    key, equals, value = override.partition("=")
    is_own = key.startswith("hydra.") and "${" in value
    if key.lstrip("+") not in PATH_KEYS or not value or value == "null" or is_own:
        return override
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return override
    return f"{key}{equals}{quoted(value)}"


def quoted(text: str) -> str:
    """Returns a text in quotes, which Hydra takes literally."""
    # a quote and the start of an interpolation are escaped, and backslashes before them are doubled
    escaped = re.sub(r"(\\*)('|\$\{)", r"\1\1\\\2", text)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return f"'{escaped}'"


def describe_group_error(overrides: Iterable[str]) -> str:
    """What is wrong with the first override that gives a group no name, such as model=null."""
    for override in overrides:
        group, _, choice = override.partition("=")
        if not group:
            return f"{override}: must be key=value"
        if choices(group) and choice not in choices(group):
            return f"{override}: must be one of {', '.join(choices(group))}"
    return "a group must be given the name of one of its files"


def search_path(config_dir: str | None) -> list[str]:
    """Returns the override that adds a user's --config-dir to the search path of Hydra.

    Raises ConfigError if there is no such folder.
    """
    if config_dir is not None and not Path(config_dir).is_dir():
        raise ConfigError(f"--config-dir={config_dir}: must be a folder")
    return [f"hydra.searchpath=['file://{Path(config_dir).resolve()}']"] if config_dir else []


def explain(error: Exception, name: str) -> str:
    """Returns Hydra's message without its advice; for an unknown key, suggests the nearest one."""
    text = str(error)
    unknown = re.search(r"Could not override '([^']*)'", text)
    if unknown:
        key = unknown.group(1)
        section, _, entry = key.partition(".")
        if section == "trainer" and entry in REFUSED_TRAINER_KEYS:
            return f"{key}: must not be given: {REFUSED_TRAINER_KEYS[entry]}"
        nodes = OmegaConf.to_container(load(name, []))
        valid = [each for each in known_keys(nodes) if not each.startswith("hydra")]
        return f"{key}: no such key{nearest(key, valid, exclude=key)}"
    return text.split("\n\n")[0]


def known_keys(node: object, prefix: str = "") -> list[str]:
    """Returns all keys of a nested configuration, in dotted form; a plain value has none."""
    keys = []
    for name, value in node.items() if isinstance(node, dict) else ():
        keys += [prefix + name, *known_keys(value, f"{prefix}{name}.")]
    return keys


def leaves(node: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yields the values of a nested configuration with their dotted keys."""
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from leaves(value, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, node


def choices(group: str) -> list[str]:
    """The choices of a group: the names of its files."""
    return sorted(path.stem for path in (CONF / group).glob("[!_]*.yaml"))


def default_choices() -> dict[str, str]:
    """Group -> the choice that conf/config.yaml makes."""
    listed = OmegaConf.load(CONF / "config.yaml").defaults
    entries = [entry for entry in listed if OmegaConf.is_dict(entry)]
    return {
        str(group): str(choice)
        for entry in entries
        for group, choice in entry.items()
        if choice is not None
    }
