"""Checks what a run folder from somebody else holds, before it is used.

A configuration consists of plain values, within bounds. It resolves nothing of this machine, and no
text of it can control a terminal.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf

from vae_lightning.checks.errors import ConfigError, show
from vae_lightning.config.compose import COMPOSITION_ERRORS, CONF, choices

MAX_BYTES, MAX_DEPTH = 1_000_000, 20


def read_config(text: str) -> DictConfig:
    """Parses a stored configuration.

    ``trust`` is set to false regardless of the stored value, because only the user who loads a run
    can decide that. ``data.fallback`` is set to null, because a run never falls back to data other
    than its training data. Files are downloaded from the mirrors of this package only.

    Raises ConfigError, without naming the run, for anything but plain values.
    """
    cfg = read_plain(text)
    if not isinstance(cfg, DictConfig):
        raise ConfigError("it must be a YAML mapping of keys to values")
    try:
        cfg.trust = False
        cfg.data.fallback = None
        cfg.data.mirrors = own_mirrors(str(cfg.data.name))
    except COMPOSITION_ERRORS as error:
        raise ConfigError(str(error)) from error
    return cfg


def read_overrides(text: str) -> list[str]:
    """Parses the stored overrides; raises what ``read_config`` raises."""
    overrides = read_plain(text)
    if not isinstance(overrides, ListConfig):
        raise ConfigError("its overrides are not a list")
    return [str(override) for override in overrides]


def read_plain(text: str) -> DictConfig | ListConfig:
    """Parses YAML; raises ConfigError unless it consists of plain values within bounds."""
    try:
        check_size(text)
        content = OmegaConf.create(text)
        check_plain(OmegaConf.to_container(content, resolve=False))
    except COMPOSITION_ERRORS as error:
        raise ConfigError(str(error)) from error
    return content


def check_size(text: str) -> None:
    """Raises ConfigError for YAML that is large, deeply nested, repeats parts, or is one value."""
    if len(text) > MAX_BYTES:
        raise ConfigError(f"it has {len(text)} characters, at most {MAX_BYTES} are allowed")
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.ScalarEvent) and depth == 0:
            raise ConfigError("it holds one value")
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError("it has YAML aliases, which are not allowed")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise ConfigError(f"it is nested more than {MAX_DEPTH} levels deep")


def check_plain(content: object) -> None:
    """Raises ConfigError for texts that would be resolved or that a terminal would obey."""
    for text in texts(content):
        if "${" in text.replace("\\", ""):  # Hydra takes \{ for { in a word
            raise ConfigError(f"{text}: a stored configuration must hold values only")
        if not text.isprintable():
            raise ConfigError(f"{text!r}: must hold printable characters only")


def texts(content: object) -> Iterator[str]:
    """Yields the texts in nested values."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from texts(show(key))
            yield from texts(value)
    elif isinstance(content, list):
        for value in content:
            yield from texts(value)


def own_mirrors(name: str) -> list[str]:
    """Returns the mirrors of a data set that this package knows, none of another one."""
    if name not in choices("data"):
        return []
    data = OmegaConf.load(CONF / "data" / f"{name}.yaml")
    return list(data.get("mirrors", [])) if isinstance(data, DictConfig) else []


def check_links(run: Path, key: str) -> None:
    """Raises ConfigError, with ``key`` in the message, if a link leads out of the run folder."""
    folder = run.resolve()
    for path in run.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(folder):
            raise ConfigError(
                f"{key}={run}: must hold no link out of the folder"
                f" ({path.relative_to(run)} leads to {path.resolve()})"
            )
