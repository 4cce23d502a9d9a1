"""Starts a new run from the configuration of another one: ``from_config=RUN``.

The stored configuration is turned into words of the command line, ahead of those that were typed,
and Hydra composes all of them as for any run. Thus groups and values can be typed, and values that
refer to others, such as ``${model.latent_dim}``, follow them. The stored values win over the
defaults of this version: whatever it composes otherwise from the recorded choices gets a word.
The run and a sweep record these words, so that they no longer need the other run.

The stored configuration is untrusted: its words hold plain values in quotes, and it may name
classes of other packages only with ``trust=true``.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from vae_lightning.checks.errors import ConfigError, show
from vae_lightning.config.compose import (
    COMPOSITION_ERRORS,
    CONF,
    TRAINING_GROUPS,
    compose,
    default_choices,
    search_path,
)
from vae_lightning.config.literal import quoted
from vae_lightning.config.nodes import plain
from vae_lightning.config.options import COMPLETE_SECTIONS
from vae_lightning.runs.stored import read_stored
from vae_lightning.runs.untrusted import check_size
from vae_lightning.storage.run_folder import HYDRA, of_run, read_choices, to_dict

KEY = "from_config"
# what belongs to the command and not to the model or the data; mirrors are those of this package
OWN_KEYS = ("resume", KEY, "trust", "data.mirrors")
GROUPS = (*TRAINING_GROUPS, "data", "trainer", "accelerator", "callbacks")
# what may change while the images stay those of the recorded fingerprint
SAME_IMAGES = ("data.batch_size", "data.val_size", "data.binarization")
NAME = r"[A-Za-z_][\w-]*"


def key_of(word: str) -> str:
    """The key of a word of the command line, without the signs that add or remove it."""
    return word.partition("=")[0].lstrip("+~")


def named_run(typed: Sequence[str]) -> str | None:
    """The run that the words name by from_config=RUN; None if they name none."""
    values = [word.partition("=")[2] for word in typed if key_of(word) == KEY]
    if not values or values[-1] in ("", "null"):
        return None
    return re.sub(r"""^(['"])(.*)\1$""", r"\2", values[-1])


def check_typed(cfg: DictConfig, typed: Sequence[str]) -> None:
    """Raises ConfigError if a file asks for the configuration of a run."""
    if cfg.from_config is not None and named_run(typed) is None:
        raise ConfigError(f"{KEY}={cfg.from_config}: must be typed, not be part of a file")


def expanded(typed: Sequence[str], config_dir: str | None) -> list[str]:
    """The typed words, after those of the configuration of the run that from_config names.

    A typed word replaces the stored ones of its key. A typed group replaces the whole group, and
    the groups that the stored model had chosen if it is the model. Raises ConfigError if there is
    no such run, and if this version cannot compose its configuration.
    """
    run = named_run(typed)
    if run is None:
        return list(typed)
    keys = {key_of(word) for word in typed}
    if "experiment" in keys:
        raise ConfigError(f"experiment: must not be given with {KEY}, which chooses all groups")
    stored = read_stored(Path(run), KEY).cfg
    try:
        groups, of_model = group_words(Path(run), stored, config_dir)
        words = value_words(to_dict(stored), groups, search_path(config_dir))
    except (*COMPOSITION_ERRORS, ConfigError) as error:
        raise ConfigError(
            f"{KEY}={run}: must hold a configuration of this version ({error})"
        ) from error
    replaced = keys | (of_model if "model" in keys else set())
    if any(key_of(word).partition(".")[0] == "data" for word in typed if not is_same_images(word)):
        replaced.add("data.sha256")
    return [*(word for word in words if not is_replaced(key_of(word), replaced)), *typed]


def is_same_images(word: str) -> bool:
    """Whether a word leaves the images and labels of the data set as they are."""
    return key_of(word) in SAME_IMAGES


def is_replaced(key: str, typed: set[str]) -> bool:
    """Whether a typed key, or the group or section that holds the key, is among those typed."""
    parts = key.split(".")
    return any(".".join(parts[: length + 1]) in typed for length in range(len(parts)))


def group_words(
    run: Path, stored: DictConfig, config_dir: str | None
) -> tuple[list[str], set[str]]:
    """The words of the recorded choices that are no defaults, and the groups the model chose.

    A choice without a file here is left out; the values say the same.
    """
    text = (run / HYDRA).read_text(encoding="utf-8") if (run / HYDRA).is_file() else "{}"
    check_size(text)
    folders = [CONF, *([Path(config_dir)] if config_dir else [])]
    recorded = read_choices(run)
    if stored.data.get("instead_of"):  # the choice was replaced by the fallback
        recorded["data"] = str(stored.data.name)
    known = {
        group: choice
        for group, choice in recorded.items()
        if group in GROUPS
        and re.fullmatch(NAME, choice)
        and any((folder / group / f"{choice}.yaml").is_file() for folder in folders)
    }
    first = [f"model={known['model']}"] if "model" in known else []
    chosen = compose("config", [*search_path(config_dir), *first]).hydra.runtime.choices
    others = [
        f"{group}={choice}"
        for group, choice in known.items()
        if group != "model" and chosen[group] != choice
    ]
    defaults = default_choices()
    of_model = {group for group in GROUPS if group != "model" and chosen[group] != defaults[group]}
    return [*first, *others], of_model


def value_words(
    stored: Mapping[str, object], groups: Sequence[str], paths: Sequence[str]
) -> list[str]:
    """The words of the groups, and of all values that differ from what the groups compose.

    Values that refer to others come last: most of them follow those to which they refer.
    """
    words = list(groups)
    for with_references in (False, True):
        cfg = of_run(compose("config", [*paths, *words]))
        words += differences(cfg, stored, "", with_references)
    return words


def differences(
    node: DictConfig, stored: Mapping[str, object], place: str, with_references: bool
) -> Iterator[str]:
    """Yields the words that make the values of a node those of the stored one."""
    for name in dict.fromkeys([*map(str, node), *stored]):
        key = f"{place}{name}"
        if key in OWN_KEYS:
            continue
        if not re.fullmatch(NAME, name):
            raise ConfigError(f"{key}: must consist of letters, digits and _")
        if name not in stored:
            if place and place.partition(".")[0] not in COMPLETE_SECTIONS:
                yield f"~{key}"
            continue
        value = stored[name]
        if name in node and OmegaConf.is_interpolation(node, name):
            if with_references and differs(plain(node, name), value):
                yield f"++{key}={written(value)}"
        elif name in node and isinstance(node[name], DictConfig) and isinstance(value, dict):
            yield from differences(node[name], value, f"{key}.", with_references)
        elif name not in node or differs(plain(node, name), value):
            yield f"++{key}={written(value)}"


def differs(value: object, other: object) -> bool:
    """Whether two values differ; true is not 1."""
    return type(value) is not type(other) or value != other


def written(value: object) -> str:
    """A value in Hydra's grammar; raises ConfigError for a key that is no name."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        return f"[{','.join(map(written, value))}]"
    if isinstance(value, dict):
        for name in value:
            if not re.fullmatch(NAME, str(name)):
                raise ConfigError(f"{name}: must consist of letters, digits and _")
        return f"{{{','.join(f'{name}:{written(part)}' for name, part in value.items())}}}"
    return show(value)
