"""The values that a swept key may take: the words of a grid, or what a search draws from."""

from collections.abc import Sequence
from typing import NamedTuple

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from vae_lightning.checks.errors import ConfigError
from vae_lightning.config.compose import choices

DIGITS = 5  # significant digits of a drawn number
TAGS = {"log"}  # draw on a logarithmic scale


class Scale(NamedTuple):
    """The numbers from ``low`` to ``high``, both included; of a range, in steps."""

    low: float
    high: float
    step: float | None  # None: all numbers of an interval
    is_integer: bool


class Domain(NamedTuple):
    """The values of one key."""

    typed: str  # the word as it was typed
    key: str  # with the sign that adds it, if any
    words: list[str]  # KEY=VALUE without repeated ones; of an interval, the two ends
    repeated: int  # words that were left out
    scale: Scale | None  # None: the words are choices without an order
    tags: frozenset[str]

    @property
    def is_interval(self) -> bool:
        """Whether the words are not all values."""
        return self.scale is not None and self.scale.step is None

    @property
    def extremes(self) -> Sequence[str]:
        """The words that have to be checked before values are drawn."""
        return self.words if self.scale is None else (self.words[0], self.words[-1])

    def word(self, value: float | str) -> str:
        """The word KEY=VALUE of a drawn value; a choice is such a word already.

        Raises ConfigError for a value that is not one of this key: a study may be damaged.
        """
        if self.scale is None:
            if value in self.words:
                return str(value)
        elif isinstance(value, int | float) and self.scale.low <= value <= self.scale.high:
            rounded = value if self.scale.is_integer else float(f"{value:.{DIGITS}g}")
            return f"{self.key}={min(max(rounded, self.scale.low), self.scale.high)}"
        raise ConfigError(f"{self.typed}: must not have the value {value}")


def domain_of(override: Override) -> Domain:
    """The values of a swept override; raises ConfigError if there are none."""
    typed, key, value = str(override.input_line), override.get_key_element(), override.value()
    scale = scale_of(value)
    if scale and scale.step is None:
        if not scale.low < scale.high:
            raise ConfigError(f"{typed}: must be an interval whose start is below its end")
        words = [f"{key}={scale.low}", f"{key}={scale.high}"]
    else:
        words = [f"{key}={each}" for each in override.sweep_string_iterator()]
    if not words:
        names = ", ".join(choices(key))
        needed = f"match one of {names}" if names else "have at least one value"
        raise ConfigError(f"{typed}: must {needed}")
    distinct = list(dict.fromkeys(words))
    tags = frozenset(getattr(value, "tags", ()))
    return Domain(typed, key, distinct, len(words) - len(distinct), scale, tags)


def scale_of(value: object) -> Scale | None:
    """The scale of an interval or a range of Hydra's grammar."""
    if isinstance(value, IntervalSweep):
        assert value.start is not None
        assert value.end is not None
        is_integer = isinstance(value.start, int) and isinstance(value.end, int)
        return Scale(value.start, value.end, None, is_integer)
    if isinstance(value, RangeSweep):
        numbers = sorted(value.range())
        if not numbers:
            return None
        is_integer = all(isinstance(each, int) for each in numbers)
        return Scale(numbers[0], numbers[-1], abs(value.step), is_integer)
    return None


def check_for_grid(domains: Sequence[Domain]) -> None:
    """Raises ConfigError for values that a grid cannot list."""
    for domain in domains:
        if domain.is_interval:
            raise ConfigError(
                f"{domain.typed}: must be a list, choice, range or glob; an interval has no finite"
                " number of values, and requires search=random, tpe, gp or qmc"
            )


def check_for_search(domains: Sequence[Domain]) -> None:
    """Raises ConfigError for values that a search cannot draw."""
    for domain in domains:
        scale = domain.scale
        if unknown := domain.tags - TAGS:
            raise ConfigError(f"{domain.typed}: must have no tag but log, not {min(unknown)}")
        if domain.tags and scale is None:
            raise ConfigError(f"{domain.typed}: must be an interval or a range to have the tag log")
        if domain.tags and scale and scale.low <= 0:
            raise ConfigError(f"{domain.typed}: must be above 0 to have the tag log")
        if domain.tags and scale and scale.step and not (scale.is_integer and scale.step == 1):
            raise ConfigError(f"{domain.typed}: must have steps of 1 to have the tag log")
