"""What a search draws from and how, as sweep.yaml records it. Imports no Optuna."""

import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from vae_lightning.checks.errors import ConfigError, show
from vae_lightning.config.general_options import SEARCH_OPTIONS, SEARCHES
from vae_lightning.config.nodes import selected
from vae_lightning.config.optional import require_extra
from vae_lightning.sweeps.domains import check_for_search
from vae_lightning.sweeps.grammar import Words, read_words

EXAMPLE = "'optimizer.lr=tag(log,interval(1e-4,1e-2))'"
# what must not change -> the field that holds it
COMPARED = {
    "search": "kind",
    "search.metric": "metrics",
    "search.pruner": "pruner",
    "search.seed": "seed",
    "search.storage in a database": "is_in_database",
    "search.study": "shared",
    "the space": "space",
}


class SearchPlan(NamedTuple):
    """A search."""

    kind: str
    trials: int  # points that are drawn in all
    metrics: list[str]
    pruner: str
    seed: int
    driver: str  # a name that no other sweep has; several may share a database, or a study
    is_in_database: bool  # whose URL is not recorded, because it may hold a password
    shared: str | None  # name of the study that several drivers share
    space: list[str]  # the swept words as they were typed

    @property
    def study(self) -> str:
        """The name of the study."""
        return self.shared or f"sweep-{self.driver}"

    def words(self, config_dir: str | None) -> Words:
        """The swept words by their meaning."""
        return read_words(self.space, config_dir)


def check_same_search(stored: SearchPlan | None, typed: SearchPlan | None, folder: Path) -> None:
    """Raises ConfigError unless both are the same search, except for the number of points."""
    for name, field in COMPARED.items():
        texts = [show_field(search, field) for search in (stored, typed)]
        if texts[0] != texts[1]:
            raise ConfigError(
                f"hydra.sweep.dir={folder}: must be continued by the same search"
                f" ({name} was {texts[0]}, is {texts[1]}); use a new folder"
            )


def show_field(search: SearchPlan | None, field: str) -> str:
    """A value of a search in a message."""
    if search is None:
        return "grid" if field == "kind" else "not set"
    value = getattr(search, field)
    return " ".join(value) if isinstance(value, list) else show(value)


def plan_search(cfg: DictConfig, words: Words) -> SearchPlan:
    """The search that a checked configuration asks for; raises ConfigError if it cannot run."""
    kind = str(cfg.search.kind)
    require_extra(f"search={kind}", "search", "optuna")
    if not words.domains:
        raise ConfigError(f"search={kind}: requires keys to search, for example {EXAMPLE}")
    check_for_search(list(words.domains.values()))
    metric = selected(cfg, "search.metric")
    metrics = [str(each) for each in (metric if isinstance(metric, list) else [metric])]
    if len(metrics) > 1 and cfg.search.pruner != "none":
        raise ConfigError(
            f"search.pruner={cfg.search.pruner}: must be none with several metrics"
            f" (search.metric=[{','.join(metrics)}])"
        )
    for name in metrics:
        if name.startswith("val/") and cfg.data.val_size == 0:
            raise ConfigError(
                f"search.metric={name}: requires validation images, but data.val_size=0"
            )
    if cfg.search.study is not None and cfg.search.storage is None:
        raise ConfigError(
            f"search.study={cfg.search.study}: requires search.storage, the database of the study"
        )
    return SearchPlan(
        kind,
        cfg.search.trials,
        metrics,
        cfg.search.pruner,
        cfg.search.seed,
        secrets.token_hex(4),
        cfg.search.storage is not None,
        cfg.search.study,
        [domain.typed for domain in words.domains.values()],
    )


def read_search(content: Mapping[str, object]) -> SearchPlan:
    """The search of a stored sweep; raises ConfigError or TypeError if it is damaged."""
    fields: dict[str, Any] = dict(content)
    search = SearchPlan(**fields)
    values = {"metric": search.metrics, "trials": search.trials, "seed": search.seed}
    for name, value in (values | {"pruner": search.pruner, "study": search.shared}).items():
        if not SEARCH_OPTIONS[f"search.{name}"].range.contains(value):
            raise ConfigError(f"search.{name}={value}")
    are_texts = all(isinstance(each, str) for each in search.space)
    if not re.fullmatch("[0-9a-f]+", str(search.driver)):
        raise ConfigError(f"driver: {search.driver}")
    if search.kind not in SEARCHES or not search.space or not are_texts:
        raise ConfigError("it holds no search")
    return search
