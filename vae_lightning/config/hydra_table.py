"""Every flag and key of Hydra: what it does here, or why it is refused.

docs/how_to/hydra.md shows these tables. Imports nothing heavy.
"""

import difflib
from collections.abc import Iterable
from typing import NamedTuple

from omegaconf import DictConfig, OmegaConf

from vae_lightning.checks.errors import ConfigError, show
from vae_lightning.config.dotted import is_part, leaves


class Use(NamedTuple):
    """What happens with a flag or key."""

    is_honored: bool
    text: str  # what it does, or why it is refused
    same: tuple[str, ...] = ()  # values that a refused key has anyway, and which are accepted


# flag -> its use; a refused one stops every command
FLAGS = {
    "--help, -h": Use(True, "prints the options of the command"),
    "--version": Use(True, "prints the version of this package"),
    "--cfg, -c": Use(True, "prints the composed configuration; with `-m`, the jobs of the sweep"),
    "--resolve": Use(True, "with `--cfg`: replaces each `${...}` by its value"),
    "--package, -p": Use(True, "with `--cfg`: prints one part only, such as `model`"),
    "--run, -r": Use(True, "runs the command, as without this flag"),
    "--multirun, -m": Use(True, "`train` runs a sweep"),
    "--config-dir, -cd": Use(True, "`train` also reads the configuration files of this folder"),
    "--info, -i": Use(True, "prints how Hydra has composed the configuration"),
    "--hydra-help": Use(True, "prints the help of Hydra"),
    "--config-name, -cn": Use(
        False, "each command has its own file; experiment=NAME chooses one of yours"
    ),
    "--config-path, -cp": Use(False, "--config-dir=DIR adds a folder with your own files"),
    "--shell-completion, -sc": Use(False, "Hydra completes scripts only, not python -m"),
    "--experimental-rerun": Use(False, "vae_lightning.replay run=RUN repeats a run"),
}
LOGGING = Use(False, "what a run logs, to the terminal and to train.log, is fixed")
# key of train -> its use; the longest one that fits counts
KEYS = {
    "hydra.run.dir": Use(True, "the folder of the run, which must be new or empty"),
    "hydra.sweep.dir": Use(True, "the folder of the sweep"),
    "hydra.mode": Use(True, "`MULTIRUN` starts a sweep, like `-m`"),
    "hydra.sweeper.params": Use(True, "in a file: the swept keys and their values"),
    "hydra.job.name": Use(
        True, "the value of `${hydra.job.name}` in these two folders; `train` by default"
    ),
    "hydra.job.config.override_dirname": Use(
        True, "how `${hydra.job.override_dirname}` is written in these two folders"
    ),
    "hydra.sweep.subdir": Use(False, "the swept keys name the folders of the jobs", (".",)),
    "hydra.sweeper": Use(False, "the package has its own sweeper; search=NAME chooses the points"),
    "hydra.launcher": Use(False, "the package has its own launchers; launcher=NAME chooses one"),
    "hydra.callbacks": Use(False, "callbacks=NAME chooses those of the training"),
    "hydra.job.chdir": Use(
        False, "a command stays in the folder where it is started", ("false", "null")
    ),
    "hydra.job.env_set": Use(False, "set environment variables in the shell, before the command"),
    "hydra.job.env_copy": Use(False, "jobs have all environment variables of the command"),
    "hydra.output_subdir": Use(
        False, "every run has its configuration in .hydra, where resume reads it", (".hydra",)
    ),
    "hydra.verbose": Use(False, LOGGING.text, ("false",)),
    "hydra.job_logging": LOGGING,
    "hydra.hydra_logging": LOGGING,
    "hydra.searchpath": Use(False, "--config-dir=DIR adds a folder"),
    "hydra": Use(False, "of Hydra's keys, the package reads those in docs/how_to/hydra.md only"),
}
HONORED_KEYS = tuple(key for key, use in KEYS.items() if use.is_honored)
SEARCH_PATH = "hydra.searchpath=['file://"  # how the word begins that stands for --config-dir
# keys whose values Hydra computes for each configuration
COMPUTED = ("hydra.overrides", "hydra.runtime", "hydra.job.override_dirname", "hydra.searchpath")

CLOSE = 0.85  # similarity of a mistyped key; 1 is equal


def key_of(word: str) -> str:
    """The dotted key of a word of the command line, without the signs that add or remove it."""
    return word.partition("=")[0].lstrip("+~").partition("@")[0].replace("/", ".")


def check_words(words: Iterable[str], name: str) -> None:
    """Raises ConfigError for the first word that sets a key of Hydra which nothing reads.

    Only ``train``, whose ``name`` is config, reads any.
    """
    for word in words:
        key, value = key_of(word), word.partition("=")[2]
        if is_part(key, "hydra") and not word.startswith(SEARCH_PATH):
            check_key(word, key, value, name)


def check_files(cfg: DictConfig, default: DictConfig, name: str) -> None:
    """Raises ConfigError if a file of the user sets a key of Hydra which nothing reads."""
    before = dict(leaves(OmegaConf.to_container(default.hydra), "hydra"))
    for key, value in leaves(OmegaConf.to_container(cfg.hydra), "hydra"):
        is_computed = any(is_part(key, part) for part in COMPUTED)
        if not is_computed and (key not in before or before[key] != value):
            check_key(f"{key}={show(value)}", key, show(value), name)


def check_key(shown: str, key: str, value: str, name: str) -> None:
    """Raises ConfigError, with the reason, unless the command does what the key says."""
    place = max((part for part in KEYS if is_part(key, part)), key=len)
    use = KEYS[place]
    if value.lower() in use.same or (use.is_honored and name == "config" and shown[0] != "~"):
        return
    reason = "only train reads keys of Hydra" if name != "config" else use.text
    if use.is_honored and name == "config":
        reason = "it must not be removed"
    close = difflib.get_close_matches(key, HONORED_KEYS, n=1, cutoff=CLOSE)
    is_unknown = place == "hydra" and name == "config"
    meant = f"; did you mean {close[0]}?" if close and is_unknown else ""
    raise ConfigError(f"{shown}: must not be given; {reason}{meant}")
