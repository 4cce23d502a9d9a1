"""What a sweep consists of: its jobs, its base configuration, and the file that records both."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from vae_lightning.checks.errors import ConfigError, show
from vae_lightning.config import options
from vae_lightning.config.compose import choices, compose, search_path
from vae_lightning.config.dotted import leaves
from vae_lightning.config.launcher_options import check_words, chosen_kind
from vae_lightning.runs.from_config import check_typed
from vae_lightning.runs.start import check_initial
from vae_lightning.runs.untrusted import check_plain, check_size, own_mirrors
from vae_lightning.storage.files import write_text
from vae_lightning.storage.run_folder import SWEEP, of_run, to_dict
from vae_lightning.sweeps.domains import Domain, check_for_grid
from vae_lightning.sweeps.grammar import Words, product, read_words
from vae_lightning.sweeps.names import job_name
from vae_lightning.sweeps.search_plan import SearchPlan, check_same_search, plan_search, read_search

KEY = "hydra.sweep.dir"  # the option that names the folder
SWEEP_MODE = RunMode.MULTIRUN
# sweep.yaml of a search grows with each point: the writer in C takes a tenth of the time
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# what drivers must have in common that share a study
IDENTITY = ("kind", "metrics", "pruner", "space")
Grid = dict[str, list[str]]  # swept key -> its words KEY=VALUE


class Job(NamedTuple):
    """One run of a sweep."""

    name: str  # of its folder in the sweep folder
    swept: tuple[str, ...]  # the words KEY=VALUE in which the jobs may differ
    overrides: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(self.swept) or self.name


class Plan(NamedTuple):
    """A sweep as its folder records it."""

    fixed: list[str]  # the overrides of every job
    grids: list[Grid]  # one for each command that added values; of a search, one for each point
    base: dict[str, object]  # the configuration of the first job, flat: dotted key -> value
    config_dir: str | None
    replaced: dict[str, str]  # data set -> the one that is used because its files were not found
    launcher: dict[str, object]  # the options of the launcher, as last used
    search: SearchPlan | None = None  # None: a grid

    @property
    def jobs(self) -> list[Job]:
        """The jobs in the order in which they are started."""
        found: dict[str, Job] = {}
        for grid in self.grids:
            for words in product(grid):
                job = self.job(words)
                found.setdefault(job.name, job)
        return list(found.values())

    @property
    def keys(self) -> list[str]:
        """The swept keys."""
        return list(self.domains if self.search else self.grids[0])

    @property
    def domains(self) -> dict[str, Domain]:
        """Key -> what a search draws from; empty for a grid."""
        return self.search.words(self.config_dir).domains if self.search else {}

    @property
    def first(self) -> tuple[str, ...]:
        """The swept words with which the base configuration is composed."""
        if self.search:
            return tuple(domain.words[0] for domain in self.domains.values())
        return self.jobs[0].swept

    @property
    def identity(self) -> str:
        """A short text that is equal for the same search of the same configuration."""
        assert self.search
        search = self.search._asdict()
        parts = [sorted(map(str, self.base.items())), *(search[key] for key in IDENTITY)]
        return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()

    def job(self, words: Sequence[str]) -> Job:
        """The job of some swept words."""
        return Job(job_name(words), tuple(words), (*self.fixed, *words))

    def probes(self) -> list[Job]:
        """Jobs that differ from the first one in one extreme value each, to check a search."""
        first = list(self.first)
        probes = [self.job(first)]
        for place, domain in enumerate(self.domains.values()):
            others = [word for word in domain.extremes if word != first[place]]
            probes += [self.job([*first[:place], word, *first[place + 1 :]]) for word in others]
        return probes

    def write(self, folder: Path) -> None:
        """Writes sweep.yaml."""
        content = self._asdict() | {"search": dict(self.search._asdict()) if self.search else None}
        text = yaml.dump(content, None, DUMPER, sort_keys=False, allow_unicode=True, width=110)
        write_text(folder / SWEEP, text)


def read_plan(folder: Path, key: str) -> Plan:
    """Reads sweep.yaml; raises ConfigError, with ``key``, if the folder holds no sweep."""
    if not (folder / SWEEP).is_file():
        raise ConfigError(f"{key}={folder}: must be a sweep folder (no {SWEEP} there)")
    try:
        text = (folder / SWEEP).read_text(encoding="utf-8")
        check_size(text)
        content = yaml.load(text, LOADER)
        search = content.pop("search", None)
        plan = Plan(**content, search=read_search(search) if search else None)
        words = [
            *plan.fixed,
            *(word for grid in plan.grids for each in grid.values() for word in each),
        ]
        is_valid = (
            (plan.grids or plan.search)
            and isinstance(plan.launcher, dict)
            and all(isinstance(word, str) for word in words)
        )
    except (ConfigError, yaml.YAMLError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{key}={folder}: {SWEEP} is damaged ({error})") from error
    if not is_valid:
        raise ConfigError(f"{key}={folder}: {SWEEP} is damaged (its words must be texts)")
    return plan


def check_trusted(plan: Plan, key: str) -> None:
    """Raises ConfigError for a stored sweep whose words would read values of this machine."""
    try:
        check_plain([plan.fixed, *plan.grids, plan.search.space if plan.search else []])
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}; set trust=true if the sweep is yours") from error


def read_typed(typed: Sequence[str], config_dir: str | None) -> tuple[Plan, Words, DictConfig]:
    """The sweep that a command line asks for, its words, and the configuration of its first job.

    A configuration file may sweep too, by ``hydra.sweeper.params``; the command line wins.
    """
    words = read_words(typed, config_dir)
    check_words(words.driver, chosen_kind(words.driver))
    cfg = first_configuration(words, config_dir)
    params = cfg.hydra.sweeper.get("params") or {}
    if params:
        from_file = [f"{key}={value}" for key, value in params.items()]
        words = read_words([*from_file, *typed], config_dir)
        cfg = first_configuration(words, config_dir)
    options.check_sweep_options(cfg)
    launcher = to_dict(cfg.launcher)
    folder = str(Path(config_dir).resolve()) if config_dir else None
    plan = Plan(words.fixed, [], flat_base(cfg), folder, {}, launcher)
    if cfg.search.kind == "grid":
        check_for_grid(list(words.domains.values()))
        return plan._replace(grids=[words.swept]), words, cfg
    return plan._replace(search=plan_search(cfg, words)), words, cfg


def first_configuration(words: Words, config_dir: str | None) -> DictConfig:
    """The configuration of the first job, which also says how all jobs are run."""
    paths = search_path(config_dir)
    first = next(iter(product(words.swept)))
    try:
        return compose("config", [*paths, *words.fixed, *first, *words.driver])
    except ConfigError as error:
        compose("config", [*paths, *words.driver])  # a mistake in these words belongs to no job
        raise named(error, first, words.fixed, config_dir) from error


def named(
    error: ConfigError, swept: Sequence[str], fixed: Sequence[str], config_dir: str | None
) -> ConfigError:
    """The error with the job that it belongs to, unless it belongs to every job."""
    text = str(error)
    keys = [word.partition("=")[0] for word in swept]
    if not swept or text.startswith((*swept, *(f"{key}: no such key" for key in keys))):
        return error
    if not any(choices(word.partition("=")[0]) for word in swept):  # no other parts
        try:
            options.check(compose("config", [*search_path(config_dir), *fixed]))
        except ConfigError as common:
            if str(common) == text:
                return error
    return ConfigError(f"{' '.join(swept)}: {text}")


def flat_base(cfg: DictConfig) -> dict[str, object]:
    """A configuration in one level, without what may differ between two commands."""
    content = OmegaConf.to_container(of_run(cfg), resolve=False)
    return {key: value for key, value in leaves(content) if key != "data.root"}


def extended(stored: Plan, typed: Plan, folder: Path) -> Plan:
    """The stored sweep with the values that a later command adds.

    Raises ConfigError, with the difference, for another base configuration and for other keys.
    """
    if stored.keys != typed.keys:
        raise ConfigError(
            f"{KEY}={folder}: must be swept over {show_keys(stored.keys)} as before, not"
            f" {show_keys(typed.keys)}; use a new folder"
        )
    if typed.search or stored.search:
        check_same_search(stored.search, typed.search, folder)
    now = compose("config", [*search_path(typed.config_dir), *typed.fixed, *stored.first])
    bases = (stored.base, flat_base(now))
    pairs = {
        key: [base.get(key, "not set") for base in bases]
        for key in dict.fromkeys([*bases[0], *bases[1]])
    }
    changed = [
        f"{key} was {show(before)}, is {show(now)}"
        for key, (before, now) in pairs.items()
        if before != now
    ]
    if changed:
        raise ConfigError(
            f"{KEY}={folder}: must have the configuration of this sweep"
            f" ({'; '.join(changed[:3])}{'; ...' if len(changed) > 3 else ''}); use a new folder"
        )
    if typed.search:
        assert stored.search
        stored = stored._replace(search=typed.search._replace(driver=stored.search.driver))
    stored = stored._replace(launcher=typed.launcher)
    have = {job.name for job in stored.jobs}
    if typed.search or all(job.name in have for job in typed.jobs):
        return stored
    return stored._replace(grids=[*stored.grids, *typed.grids])


def show_keys(keys: Sequence[str]) -> str:
    """The swept keys in a message."""
    return ", ".join(keys) or "no key"


def configuration(job: Job, plan: Plan, trust: bool = True) -> DictConfig:
    """The checked configuration of a job; raises ConfigError, with the job, if it is wrong."""
    try:
        cfg = compose("config", [*search_path(plan.config_dir), *job.overrides])
        is_chosen = any(word.startswith("experiment=") for word in job.swept)
        if is_chosen and cfg.hydra.mode == SWEEP_MODE:
            raise ConfigError("must not be a sweep itself (hydra.mode=MULTIRUN)")
        if cfg.resume is not None:
            raise ConfigError("must not continue a run (resume)")
        if cfg.accelerator.num_nodes > 1 and plan.launcher["kind"] != "slurm":
            raise ConfigError(
                "accelerator=multi_node: must not be part of a sweep without launcher=slurm;"
                " start each run by torchrun or srun"
            )
        check_typed(cfg, job.overrides)
        options.check(cfg)
        check_initial(cfg)
    except ConfigError as error:
        raise named(error, job.swept, plan.fixed, plan.config_dir) from error
    cfg.trust = trust and options.may_name_any_class(cfg)
    if not trust:
        cfg.data.mirrors = own_mirrors(str(cfg.data.name))
    return cfg
