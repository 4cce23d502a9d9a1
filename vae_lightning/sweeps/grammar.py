"""The jobs that the words of a sweep stand for, in Hydra's grammar."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from vae_lightning.checks.errors import ConfigError
from vae_lightning.config.compose import COMPOSITION_ERRORS, choices, explain
from vae_lightning.config.dotted import is_part
from vae_lightning.config.hydra_table import check_words
from vae_lightning.config.literal import literal_path
from vae_lightning.sweeps.domains import Domain, domain_of

# keys that say how the jobs are run, not what they are
DRIVER_KEYS = ("hydra", "launcher", "search", "sweep")
REFUSED_KEYS = {
    "resume": "must not be given in a sweep; vae_lightning.sweep resume=DIR continues one",
    "hydra.run.dir": "must not be given in a sweep; hydra.sweep.dir names its folder",
}


class Words(NamedTuple):
    """The overrides of a sweep by their meaning."""

    fixed: list[str]  # the same for every job
    domains: dict[str, Domain]  # swept key -> its values
    driver: list[str]  # how the jobs are run
    repeated: int  # words that were left out

    @property
    def swept(self) -> dict[str, list[str]]:
        """Swept key -> its words KEY=VALUE; of an interval, its two ends."""
        return {key: domain.words for key, domain in self.domains.items()}


class GroupOptions:
    """What Hydra's grammar asks for to resolve ``glob``: the names of the files of a group."""

    def __init__(self, config_dir: str | None) -> None:
        self.config_dir = config_dir

    def get_group_options(self, group_name: str, **_: object) -> list[str]:
        """The names of a group, also those of the user's folder, without private files."""
        folder = Path(self.config_dir or ".", group_name)
        own = folder.glob("[!_]*.yaml") if self.config_dir else ()
        return sorted({*choices(group_name), *(path.stem for path in own)})


def read_words(typed: Sequence[str], config_dir: str | None = None) -> Words:
    """Sorts the overrides of a sweep; of a key that is given twice, the last one counts.

    Raises ConfigError for a word that Hydra cannot parse, for a key without a value, and for a key
    that a sweep does not have.
    """
    check_words(typed, "config")
    parser = OverridesParser.create(config_loader=GroupOptions(config_dir))  # pyright: ignore[reportArgumentType] - the grammar uses this method only
    words, repeated = Words([], {}, [], 0), 0
    try:
        parsed = parser.parse_overrides([literal_path(word) for word in typed])
    except COMPOSITION_ERRORS as error:
        raise ConfigError(explain(error, "config")) from error
    last = {bare_key(override): override for override in parsed}
    for key, override in last.items():
        reason = next((text for name, text in REFUSED_KEYS.items() if is_part(key, name)), None)
        if reason:
            raise ConfigError(f"{key}: {reason}")
        is_driver = any(is_part(key, name) for name in DRIVER_KEYS)
        if not override.is_sweep_override():
            (words.driver if is_driver else words.fixed).append(str(override.input_line))
        elif is_driver:
            raise ConfigError(f"{override.input_line}: must have one value")
        else:
            words.domains[key] = domain = domain_of(override)
            repeated += domain.repeated
    return words._replace(repeated=repeated)


def bare_key(override: Override) -> str:
    """The key of an override without the signs that add or remove it."""
    return override.get_key_element().lstrip("+~")


def product(swept: Mapping[str, Sequence[str]]) -> Iterable[tuple[str, ...]]:
    """The swept words of each job; the last key varies fastest."""
    return itertools.product(*swept.values())
