"""The options of each launcher: where the jobs of a sweep run, and what each of them gets.

Imports nothing heavy. ``options`` checks their values.
"""

from collections.abc import Sequence

from vae_lightning.checks.errors import ConfigError
from vae_lightning.checks.ranges import AnyOf, Choice, Integer, Number, Option, Range
from vae_lightning.checks.texts import Word, Words
from vae_lightning.config.hydra_table import key_of

KINDS = ("local", "slurm", "ray")
KIND = Option("where jobs run", Choice(KINDS))


def or_null(allowed: Range) -> Range:
    """The same values, and null."""
    return AnyOf((allowed, Choice((None,))))


AUTO_OR_NUMBER = AnyOf((Choice(("auto",)), Integer(1)))
CPUS = Option("cores and threads of each process", Integer(1))
# kind of launcher -> name of the option -> its description
LAUNCHER_OPTIONS: dict[str, dict[str, Option]] = {
    "local": {
        "slots": Option(
            "jobs at a time; auto: as many as the free cores or the GPUs allow", AUTO_OR_NUMBER
        ),
        "per_device": Option("jobs of one process that share a GPU", Integer(1)),
    },
    "slurm": {
        "slots": Option("jobs that wait or run at a time", Integer(1)),
        "partition": Option(
            "partition; null: the default of the cluster", or_null(Word("a word such as gpu"))
        ),
        "account": Option(
            "account; null: the default of the user", or_null(Word("a word such as lab"))
        ),
        "time": Option(
            "time limit of a job, in minutes or in the format of sbatch",
            AnyOf((Integer(1), Word("a text such as 1-12:00:00"))),
        ),
        "cpus": CPUS,
        "gpus": Option("GPUs of each process", Integer(0)),
        "memory": Option(
            "memory of each machine; null: the default of the cluster",
            or_null(Word("a size such as 8G", ("K", "M", "G", "T"))),
        ),
        "save_s": Option("seconds before the limit at which a job saves", Integer(1, 65535)),
        "sbatch": Option(
            "further options of sbatch", or_null(Words("names with words, as in {qos: long}"))
        ),
    },
    "ray": {
        "slots": Option(
            "jobs at a time; auto: as many as the cluster has room for", AUTO_OR_NUMBER
        ),
        "address": Option(
            "address of a running cluster; null or local starts Ray on this machine",
            or_null(Word("auto, local or HOST:PORT")),
        ),
        "cpus": CPUS,
        "gpus": Option("GPUs of each process; a fraction lets jobs share one", Number(least=0)),
    },
}


def launcher_options(kind: str) -> dict[str, Option]:
    """Key -> description of the options of a launcher."""
    own = {f"launcher.{name}": option for name, option in LAUNCHER_OPTIONS[kind].items()}
    return {"launcher.kind": KIND} | own


def kinds_with(name: str) -> list[str]:
    """The launchers that have an option."""
    return [kind for kind, found in LAUNCHER_OPTIONS.items() if name in found]


def check_words(words: Sequence[str], chosen: str) -> None:
    """Raises ConfigError for an option that only another launcher has."""
    for word in words:
        key = key_of(word)
        section, _, name = key.partition(".")
        kinds = kinds_with(name.partition(".")[0]) if section == "launcher" else []
        if kinds and chosen not in kinds:
            raise ConfigError(f"{key}: requires launcher={' or '.join(kinds)}, not {chosen}")


def chosen_kind(words: Sequence[str]) -> str:
    """The launcher that the words of a command line name."""
    named = [word.partition("=")[2] for word in words if word.partition("=")[0] == "launcher"]
    return named[-1] if named else "local"


def merged_options() -> dict[str, Option]:
    """Key -> description of the options of all launchers that can be null, for a later command."""
    found: dict[str, list[Option]] = {}
    for options in LAUNCHER_OPTIONS.values():
        for name, option in options.items():
            found.setdefault(name, []).append(option)
    found.pop("sbatch")  # it has no single value
    return {
        f"launcher.{name}": Option(
            f"{each[0].text.partition(';')[0]}; null: as before",
            AnyOf((*dict.fromkeys(one.range for one in each), Choice((None,)))),
        )
        for name, each in ({"kind": [KIND]} | found).items()
    }
