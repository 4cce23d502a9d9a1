"""Options that a run has although nobody typed them, which tables of several runs show."""

from collections.abc import Sequence

import yaml

from vae_lightning.checks.errors import ConfigError, show
from vae_lightning.config.dotted import leaves
from vae_lightning.runs.stored import CONFIG
from vae_lightning.runs.untrusted import read_config
from vae_lightning.storage.run_folder import read_choices, to_dict
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
        cfg = read_config(path.read_text(encoding="utf-8"))
        chosen = read_choices(result.folder)
    except (OSError, UnicodeDecodeError, ConfigError, yaml.YAMLError):
        return result  # of a damaged folder, only what was typed is known
    known = {key: text(value) for key, value in leaves(to_dict(cfg))} | chosen
    found = {key: known[key] for key in missing if known.get(key)}
    return result._replace(options=result.options | found)


def text(value: object) -> str:
    """A value as it would be typed; empty for a section."""
    if isinstance(value, dict):
        return ""
    if isinstance(value, list):
        return f"[{','.join(map(text, value))}]"
    return f"{value:g}" if isinstance(value, float) else show(value)
