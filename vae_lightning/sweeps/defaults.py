"""Options that a run has although nobody typed them, which tables of several runs show."""

from collections.abc import Mapping, Sequence
from typing import TypeGuard

import yaml
from omegaconf import OmegaConf

from vae_lightning.checks.errors import ConfigError
from vae_lightning.runs.stored import CONFIG
from vae_lightning.runs.untrusted import read_config
from vae_lightning.storage.run_folder import read_choices
from vae_lightning.sweeps.results import Result


def with_defaults(results: Sequence[Result]) -> list[Result]:
    """The results, each with the value of every option that was typed for another one."""
    keys = dict.fromkeys(key for each in results for key in each.options)
    return [complete(each, list(keys)) for each in results]


def complete(result: Result, keys: Sequence[str]) -> Result:
    """Adds those of the keys that a result lacks, as far as its folder knows them."""
    missing = [key for key in keys if key not in result.options]
    path = result.folder / CONFIG
    if not missing or not path.is_file():
        return result
    try:
        values = OmegaConf.to_container(read_config(path.read_text(encoding="utf-8")))
        chosen = read_choices(result.folder)
    except (OSError, UnicodeDecodeError, ConfigError, yaml.YAMLError):
        return result  # of a damaged folder, only what was typed is known
    found = {key: chosen.get(key, text(value_of(values, key))) for key in missing}
    return result._replace(options=result.options | {k: v for k, v in found.items() if v})


def value_of(values: object, key: str) -> object:
    """The value of a dotted key; an empty mapping if there is none."""
    found = values
    for part in key.split("."):
        found = found.get(part, {}) if isinstance(found, Mapping) else {}
    return found


def text(value: object) -> str:
    """A value as it would be typed; empty for a section."""
    if isinstance(value, Mapping):
        return ""
    if isinstance(value, list):
        return f"[{','.join(map(text, value))}]"
    if isinstance(value, float):
        return f"{value:g}"
    return {None: "null", True: "true", False: "false"}[value] if is_word(value) else str(value)


def is_word(value: object) -> TypeGuard[bool | None]:
    """Whether YAML has a word of its own for the value."""
    return value is None or isinstance(value, bool)
