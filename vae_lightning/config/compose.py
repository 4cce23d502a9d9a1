"""Composes the configuration of a command with Hydra.

A mistake in an override or a file raises ConfigError. This module imports no heavy packages.
"""

import functools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vae_lightning.checks.errors import ConfigError
from vae_lightning.config import hydra_table
from vae_lightning.config.class_table import DATASETS, OPTIMIZERS, SCHEDULERS
from vae_lightning.config.dotted import known_keys
from vae_lightning.config.interpolations import read_environment
from vae_lightning.config.literal import PATH_KEYS, literal_path
from vae_lightning.config.own_hydra import load
from vae_lightning.config.suggestions import advice, close_choice, close_key, same_key, squeezed
from vae_lightning.config.trainer_options import REFUSED_TRAINER_KEYS

PACKAGE = Path(__file__).resolve().parent.parent
# in an installed wheel the folder is inside the package, in a checkout it is next to the package
CONF = next(path for path in (PACKAGE / "conf", PACKAGE.parent / "conf") if path.is_dir())
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


def compose(name: str, overrides: list[str]) -> DictConfig:
    """Returns the configuration of a command, including its ``hydra`` node.

    Raises ConfigError for an invalid override; the message suggests the nearest valid name.
    """
    hydra_table.check_words(overrides, name)
    check_lists(overrides)
    words = [as_hydra_reads(override) for override in overrides]
    try:
        cfg = composed(name, words)
    except MissingConfigException as error:
        group, _, choice = (error.missing_cfg_file or "").rpartition("/")
        given = error.options or choices(group)  # Hydra names none for an entry of a list
        options = [option for option in given if option and option[0] != "_"]
        raise ConfigError(wrong_choice(group, choice, options)) from error
    except COMPOSITION_ERRORS as error:
        raise ConfigError(explain(error, name, words)) from error
    except ValueError as error:
        if "invalid literal for int" in str(error):
            raise ConfigError(describe_list_error(words, name)) from error
        if "Config group override" not in str(error):
            raise
        raise ConfigError(describe_group_error(overrides)) from error
    if any(word.startswith(hydra_table.SEARCH_PATH) for word in words):
        hydra_table.check_files(cfg, default(name), name)
    read_environment(cfg, PATH_KEYS)
    return cfg


def check_lists(words: Iterable[str]) -> None:
    """Raises ConfigError for a list of names of a group with none, which would have no effect."""
    for word in words:
        group, _, value = word.partition("=")
        names = value.strip("[]").split(",")
        if value.startswith("[") and len(names) > 1 and "none" in names and choices(group):
            others = ",".join(name for name in names if name != "none")
            raise ConfigError(
                f"{word}: must not hold none beside others; did you mean {group}=[{others}]?"
            )


def composed(name: str, words: list[str]) -> DictConfig:
    """What Hydra composes; raises its errors."""
    return load(folder_of(name), name, words)


def folder_of(name: str) -> Path:
    """The folder of NAME.yaml. Other commands than train have no groups, but keys of such names."""
    return CONF if name == "config" else CONF / "commands"


@functools.cache
def default(name: str) -> DictConfig:
    """The configuration of a command without any override; not to be changed."""
    return compose(name, [])


def as_hydra_reads(override: str) -> str:
    """Returns an override in Hydra's grammar: paths are literal, and GROUP=null chooses nothing."""
    group, _, choice = override.partition("=")
    if choice == "null" and group == "experiment":
        return "~experiment"
    if choice == "null" and "none" in choices(group):
        return f"{group}=none"
    return literal_path(override)


def describe_list_error(words: Iterable[str], name: str) -> str:
    """What is wrong with the first override of an entry of a list, such as data.augment.flip=1."""
    before: list[str] = []
    for word in words:
        parent = hydra_table.key_of(word).rpartition(".")[0]
        if parent and OmegaConf.is_list(OmegaConf.select(composed(name, before), parent)):
            return f"{word}: {parent} is a list; write {parent}=[...]"
        before.append(word)
    return "an entry of a list must be given by its position"


def describe_group_error(overrides: Iterable[str]) -> str:
    """What is wrong with the first override that gives a group no name, such as model=null."""
    for override in overrides:
        group, _, choice = override.partition("=")
        if not group:
            return f"{override}: must be key=value"
        if choices(group) and choice not in choices(group):
            return wrong_choice(group, choice, choices(group))
    return "a group must be given the name of one of its files"


def wrong_choice(group: str, choice: str, names: Sequence[str]) -> str:
    """The message about a choice that a group does not have, with the one that is meant."""
    if not names:
        return f"{group}={choice}: no such configuration"
    close = default_choices().get(group) if choice == "null" else close_choice(choice, names)
    if close is None or squeezed(close) != squeezed(choice):
        close = of_torch(group, choice) or close
    meant = f"; did you mean {group}={close}?" if close else ""
    return f"{group}={choice}: must be one of {', '.join(names)}{meant}"


def of_torch(group: str, choice: str) -> str | None:
    """The words that choose a class of PyTorch which is named like a choice of this package."""
    tables = {
        "optimizer": ("torch", "name", OPTIMIZERS),
        "scheduler": ("torch", "name", SCHEDULERS),
        "data": ("torchvision", "dataset", DATASETS),
    }
    file, key, classes = tables.get(group, ("", "", ()))
    named = [name for name in classes if squeezed(name) == squeezed(choice)]
    return f"{file} {group}.{key}={named[0]}" if named else None


def search_path(config_dir: str | None) -> list[str]:
    """Returns the override that adds a user's --config-dir to the search path of Hydra.

    Raises ConfigError if there is no such folder.
    """
    if config_dir is not None and not Path(config_dir).is_dir():
        raise ConfigError(f"--config-dir={config_dir}: must be a folder")
    return [f"hydra.searchpath=['file://{Path(config_dir).resolve()}']"] if config_dir else []


def explain(error: Exception, name: str, words: Sequence[str] = ()) -> str:
    """Returns Hydra's message without its advice; for an unknown key, suggests the one meant.

    ``words`` are the overrides, which say what a group has chosen.
    """
    text = str(error)
    if unknown := re.search(r"Could not override '([^']*)'", text):
        return unknown_key(unknown.group(1), name, words)
    joined = str(getattr(error, "override", ""))
    if " " in joined and text.startswith("mismatched input '='"):
        return f"'{joined}': must be one key=value; several options are separate words"
    if bare := re.match(r"Error parsing override '(.*)'\nmissing EQUAL at '<EOF>'", text):
        return bare_word(bare.group(1), name)
    if unreadable := re.match(r"LexerNoViableAltException: (.*)\n", text):
        return f"{unreadable.group(1)}: must be key=value, with every quote and bracket closed"
    if several := re.match(r"Ambiguous value for argument '(.*)'\n", text):
        word = several.group(1)
        key, _, values = word.partition("=")
        swept = "-m sweeps over several, and " if name == "config" else ""
        return f"{word}: must be one value; {swept}{key}=[{values}] is a list"
    if swept := re.match(r"Sweep parameters '(.*)' requires --multirun", text):
        allowed = "requires -m, which runs a sweep" if name == "config" else "must be one value"
        return f"{swept.group(1)}: {allowed}"
    if merging := re.match(r"Error merging override (.*)", text):
        return f"{merging.group(1)}: {first_line(error.__cause__ or error)}"
    return re.sub(r"\s*See https://hydra\.cc\S* for details", "", text.split("\n\n")[0])


def first_line(error: BaseException) -> str:
    """The first line of the message of an error."""
    return str(error).partition("\n")[0]


def unknown_key(key: str, name: str, words: Sequence[str] = ()) -> str:
    """The message about a key that a command does not have, with the one that is meant."""
    section, _, entry = key.partition(".")
    if section == "trainer" and entry in REFUSED_TRAINER_KEYS:
        return f"{key}: must not be given: {REFUSED_TRAINER_KEYS[entry]}"
    owners = [
        choice for choice in choices(section) if entry and entry in keys_of_file(section, choice)
    ]
    if owners and name == "config":
        return f"{key}: no such key; it is an option of {section}={', '.join(owners)}"
    meant = meant_by(key, name)
    if name == "config" and meant == f"; did you mean {section}=NAME?":
        meant = f"; {keys_of_choice(section, key, words)}"
    return f"{key}: no such key{meant}"


def keys_of_choice(group: str, unknown: str, words: Sequence[str]) -> str:
    """What the chosen file of a group has, as in ``scheduler=step has scheduler.step_size``."""
    cfg = composed("config", [word for word in words if hydra_table.key_of(word) != unknown])
    names = [str(name) for name, value in cfg[group].items() if not OmegaConf.is_dict(value)]
    keys = ", ".join(f"{group}.{name}" for name in names if name[0] != "_")
    return f"{group}={cfg.hydra.runtime.choices[group]} has {keys or 'no options'}"


def meant_by(key: str, name: str) -> str:
    """Returns "; did you mean KEY?", or what to do instead, or an empty string."""
    valid = keys_of(name)
    found = same_key(key, valid)
    if not found and advice(key):
        return f"; {advice(key)}"
    found = found or close_key(key, valid)
    return f"; did you mean {found}{'=NAME' if choices(found) else ''}?" if found else ""


def bare_word(word: str, name: str) -> str:
    """The message about a word that is no override, such as a path or the name of a file."""
    if name == "sweep":
        return f"{word}: must be resume={word} or status={word}"
    groups = [group for group in default_choices() if word in choices(group)]
    if name == "config" and groups:
        return f"{word}: must be key=value; did you mean {groups[0]}={word}?"
    if name == "config" and "/" in word:
        return (
            f"{word}: must be key=value; resume={word} continues that run, and"
            f" from_config={word} starts one with its options"
        )
    return f"{word}: must be key=value"


@functools.cache
def keys_of(name: str) -> tuple[str, ...]:
    """The keys of a command in the order in which they are suggested.

    What is trained comes first; values that refer to others come last.
    """
    content = OmegaConf.to_container(default(name))
    assert isinstance(content, dict)
    del content["hydra"]
    order = [*TRAINING_GROUPS, "data", "trainer"]
    rank = {section: place for place, section in enumerate(order)}
    keys = sorted(known_keys(content), key=lambda key: rank.get(key.partition(".")[0], len(order)))
    flat = OmegaConf.create(content)
    keys.sort(key=lambda key: is_reference(flat, key))
    others = (*default_choices(), "experiment", *hydra_table.HONORED_KEYS)
    return (*keys, *(key for key in others if name == "config" and key not in keys))


def is_reference(cfg: DictConfig, key: str) -> bool:
    """Whether the value of a key is that of another one, such as ${model.latent_dim}."""
    section, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, section) if section else cfg
    return OmegaConf.is_interpolation(node, name)


@functools.cache
def keys_of_file(group: str, choice: str) -> frozenset[str]:
    """The keys of a file of a group and of its defaults, below the name of the group."""
    content = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{choice}.yaml"))
    assert isinstance(content, dict)
    files = [
        each.partition("@")[0] for each in content.get("defaults", ()) if isinstance(each, str)
    ]
    inherited = [keys_of_file(group, file) for file in files if file != "_self_"]
    return frozenset(known_keys(content)).union(*inherited)


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
