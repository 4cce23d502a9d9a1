"""The parts of Optuna that a search uses: storage, samplers and pruners."""

import itertools
import json
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vae_lightning.checks.errors import ConfigError
from vae_lightning.config.optional import require_extra
from vae_lightning.sweeps.domains import Domain
from vae_lightning.sweeps.search_plan import SearchPlan

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage

STUDY = "study.log"  # in a sweep folder
SEARCH = "search"  # attribute of a shared study: what all its drivers must have in common
OPENED, PAUSE_S = 10, 0.5  # attempts to create the tables of a database, while others do the same
ANSWERED_S = 10  # within which a database must answer


def open_study(
    search: SearchPlan, place: Path, storage: "BaseStorage | None", epochs: int, identity: str
) -> "Study":
    """Opens or creates the study; the caller has claimed the sweep folder ``place``.

    A shared study records the ``identity`` of the search, see ``check_shared``.
    Raises ConfigError if study.log is damaged.
    """
    import optuna
    from optuna.study import StudyDirection

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            study_name=search.study,
            storage=journal(place / STUDY) if storage is None else storage,
            directions=[StudyDirection.MINIMIZE] * len(search.metrics),
            pruner=make_pruner(search, epochs),
            load_if_exists=True,
        )
    except (json.JSONDecodeError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{place}: {STUDY} is damaged ({error})") from error
    if search.shared and SEARCH not in study.user_attrs:
        study.set_user_attr(SEARCH, identity)
    return study


def journal(path: Path) -> "BaseStorage":
    """A study in one file, repaired after the death of a driver."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    # a driver that was killed may have left the lock of a write, and half a line
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    content = path.read_bytes() if path.is_file() else b""
    if content and not content.endswith(b"\n"):
        path.write_bytes(content[: content.rfind(b"\n") + 1])
    return JournalStorage(JournalFileBackend(str(path), JournalFileOpenLock(str(path))))


def connect(url: str | None, search: SearchPlan) -> "BaseStorage | None":
    """The database of a study, None if the study is in study.log.

    Raises ConfigError if the database cannot be opened; the message holds no password.
    """
    if search.is_in_database != (url is not None):
        needed = "the URL of its database" if url is None else "null"
        raise ConfigError(f"search.storage: must be {needed}, where this search was started")
    if url is None:
        return None
    kind = url.partition(":")[0]
    if kind in ("postgresql", "postgresql+psycopg"):
        require_extra(f"search.storage={kind}:...", "postgres", "psycopg")
    from sqlalchemy.exc import SQLAlchemyError

    try:
        storage = open_database(url)
    except (SQLAlchemyError, ImportError, ValueError) as error:
        raise ConfigError(
            f"search.storage={kind}:...: must be the URL of a database that can be opened, such as"
            f" sqlite:///study.db ({type(error).__name__})"
        ) from error
    return storage


def open_database(url: str) -> "BaseStorage":
    """Opens a database, and creates its tables, which other drivers may do at the same time."""
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import IntegrityError, ProgrammingError

    limits = {"connect_timeout": ANSWERED_S} if url.startswith("postgresql") else {}
    for attempt in itertools.count(1):
        try:
            return RDBStorage(url, {"connect_args": limits, "pool_pre_ping": True})
        except (IntegrityError, ProgrammingError):
            if attempt == OPENED:
                raise
            time.sleep(PAUSE_S)
    raise AssertionError


def check_shared(storage: "BaseStorage | None", search: SearchPlan, identity: str) -> None:
    """Raises ConfigError if the study that is to be shared belongs to another search."""
    if storage is None or search.shared is None:
        return
    try:
        number = storage.get_study_id_from_name(search.shared)
    except KeyError:
        return
    if storage.get_study_user_attrs(number).get(SEARCH, identity) != identity:
        raise ConfigError(
            f"search.study={search.shared}: must be a new name, or that of the same search of the"
            " same configuration"
        )


def distributions_of(domains: Mapping[str, Domain]) -> "dict[str, BaseDistribution]":
    """What Optuna draws the value of each key from."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    found: dict[str, BaseDistribution] = {}
    for key, domain in domains.items():
        scale, is_log = domain.scale, "log" in domain.tags
        if scale is None:
            found[key] = CategoricalDistribution(domain.words)
        elif scale.is_integer:
            low, high = int(scale.low), int(scale.high)
            found[key] = IntDistribution(low, high, is_log, int(scale.step or 1))
        else:
            found[key] = FloatDistribution(scale.low, scale.high, is_log, scale.step)
    return found


def make_sampler(search: SearchPlan, number: int) -> "BaseSampler":
    """The sampler of a trial.

    Its random numbers depend on the seed and the number of the trial, so that a search that
    continues does not draw again what it has drawn. A Sobol sequence continues by itself.
    """
    import numpy as np
    from optuna import samplers

    # drivers that share a study do not draw the same points
    driver = [int(search.driver, 16)] if search.shared else []
    seed = int(np.random.SeedSequence([search.seed, number, *driver]).generate_state(1)[0])
    with warnings.catch_warnings(action="ignore"):  # some samplers are experimental
        if search.kind == "tpe":
            return samplers.TPESampler(seed=seed, constant_liar=True)
        if search.kind == "gp":
            return samplers.GPSampler(seed=seed, warn_independent_sampling=False)
        others = samplers.RandomSampler(seed)
        if search.kind == "random":
            return others
        return samplers.QMCSampler(
            seed=search.seed,
            scramble=True,
            independent_sampler=others,
            warn_asynchronous_seeding=False,
            warn_independent_sampling=False,
        )


def make_pruner(search: SearchPlan, epochs: int) -> "BasePruner":
    """The pruner of a search."""
    from optuna import pruners

    if search.pruner == "median":
        return pruners.MedianPruner()
    if search.pruner == "hyperband":
        return pruners.HyperbandPruner(max_resource=epochs)
    return pruners.NopPruner()
