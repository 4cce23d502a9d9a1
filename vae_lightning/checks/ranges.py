"""Descriptions of options: the values that an option may take, and one line of text about it.

An option of a class is described where the class takes it, as an annotation of its argument:

    def __init__(self, weight: Annotated[float, Option("weight of the penalty", Number(0))]): ...

Imports nothing heavy.
"""

import math
from dataclasses import dataclass

from vae_lightning.checks.errors import ConfigError, nearest, show


class Range:
    """The values that an option may take."""

    def contains(self, value: object) -> bool:
        """Whether the value is allowed."""
        raise NotImplementedError

    @property
    def allowed(self) -> str:
        """The allowed values in words, as in ``must be an integer >= 1``."""
        raise NotImplementedError

    @property
    def named(self) -> tuple[str, ...]:
        """The words among the values."""
        return ()


@dataclass(frozen=True)
class Integer(Range):
    """An integer in [least, most]."""

    least: int
    most: int | None = None

    def contains(self, value: object) -> bool:
        """Whether the value is an integer (not a bool) in the interval."""
        if not isinstance(value, int) or isinstance(value, bool):
            return False
        return value >= self.least and (self.most is None or value <= self.most)

    @property
    def allowed(self) -> str:
        """The interval in words."""
        if self.most is None:
            return f"an integer >= {self.least}"
        return f"an integer from {self.least} to {self.most}"


@dataclass(frozen=True)
class Number(Range):
    """A finite number in an interval; ``above`` and ``below`` are not part of it."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def contains(self, value: object) -> bool:
        """Whether the value is a finite number (not a bool) in the interval."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return (
            math.isfinite(value)
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    @property
    def allowed(self) -> str:
        """The interval in words."""
        bounds = {">=": self.least, ">": self.above, "<=": self.most, "<": self.below}
        named = [f"{sign} {bound:g}" for sign, bound in bounds.items() if bound is not None]
        return " ".join(["a finite number", " and ".join(named)]).strip()


@dataclass(frozen=True)
class Choice(Range):
    """One of some words or numbers; ``null`` is written for None."""

    words: tuple[str | int | None, ...]

    def contains(self, value: object) -> bool:
        """Whether the value is one of the words."""
        return not isinstance(value, bool | list | dict) and value in self.words

    @property
    def named(self) -> tuple[str, ...]:
        """The words without numbers and null."""
        return tuple(word for word in self.words if isinstance(word, str))

    @property
    def allowed(self) -> str:
        """The words."""
        named = list(dict.fromkeys("null" if word is None else str(word) for word in self.words))
        return f"one of {', '.join(named)}" if len(named) > 2 else " or ".join(named)


@dataclass(frozen=True)
class Boolean(Range):
    """true or false."""

    def contains(self, value: object) -> bool:
        """Whether the value is a bool."""
        return isinstance(value, bool)

    @property
    def allowed(self) -> str:
        """The two values."""
        return "true or false"


@dataclass(frozen=True)
class AutoOrBoolean(Range):
    """auto, true or false."""

    def contains(self, value: object) -> bool:
        """Whether the value is a bool or the word auto."""
        return isinstance(value, bool) or value == "auto"

    @property
    def allowed(self) -> str:
        """The three values."""
        return "auto, true or false"


@dataclass(frozen=True)
class Integers(Range):
    """A non-empty list of integers >= least."""

    least: int

    def contains(self, value: object) -> bool:
        """Whether the value is such a list."""
        one = Integer(self.least)
        return isinstance(value, list) and bool(value) and all(map(one.contains, value))

    @property
    def allowed(self) -> str:
        """The list in words."""
        return f"a non-empty list of integers >= {self.least}"


@dataclass(frozen=True)
class List(Range):
    """A list of exactly ``length`` values of one range."""

    length: int
    each: Range

    def contains(self, value: object) -> bool:
        """Whether the value is such a list."""
        if not isinstance(value, list) or len(value) != self.length:
            return False
        return all(map(self.each.contains, value))

    @property
    def allowed(self) -> str:
        """The list in words."""
        return f"a list of {self.length} values, each {self.each.allowed}"


@dataclass(frozen=True)
class Subset(Range):
    """A list of some of these words, possibly empty, each at most once."""

    words: tuple[str, ...]

    def contains(self, value: object) -> bool:
        """Whether the value is such a list."""
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            return False
        return set(value) <= set(self.words) and len(set(value)) == len(value)

    @property
    def allowed(self) -> str:
        """The words."""
        return f"a list of some of {', '.join(self.words)}; [] for none"


@dataclass(frozen=True)
class OneOrMore(Range):
    """A value, or a non-empty list of different values, each of the same range."""

    each: Range

    def contains(self, value: object) -> bool:
        """Whether the value, or each of the list, is allowed."""
        values = value if isinstance(value, list) else [value]
        is_distinct = all(one not in values[:place] for place, one in enumerate(values))
        return bool(values) and is_distinct and all(map(self.each.contains, values))

    @property
    def allowed(self) -> str:
        """The value in words."""
        return f"{self.each.allowed}, or a list of several"


@dataclass(frozen=True)
class Text(Range):
    """A text that is not empty, such as a path; it must end in ``ending``, or in one of several."""

    what: str
    ending: str | tuple[str, ...] = ""

    def contains(self, value: object) -> bool:
        """Whether the value is a text with at least one character and the ending."""
        return isinstance(value, str) and value != "" and value.endswith(self.ending)

    @property
    def allowed(self) -> str:
        """What the text stands for."""
        return self.what


@dataclass(frozen=True)
class AnyOf(Range):
    """A value of one of several ranges."""

    ranges: tuple[Range, ...]

    def contains(self, value: object) -> bool:
        """Whether one of the ranges contains the value."""
        return any(one.contains(value) for one in self.ranges)

    @property
    def named(self) -> tuple[str, ...]:
        """The words of all ranges."""
        return tuple(word for one in self.ranges for word in one.named)

    @property
    def allowed(self) -> str:
        """All of the ranges in words, each once."""
        parts = [each for one in self.ranges for each in getattr(one, "ranges", (one,))]
        return " or ".join(dict.fromkeys(each.allowed for each in parts))


SEEDS = Integer(0, 2**32 - 1)


@dataclass(frozen=True)
class Option:
    """One line about an option, and the values that it may take."""

    text: str
    range: Range


def described(annotation: object) -> Option | None:
    """The option that an ``Annotated`` type describes, None if it describes none."""
    metadata = getattr(annotation, "__metadata__", ())
    return next((item for item in metadata if isinstance(item, Option)), None)


def check_value(key: str, value: object, option: Option) -> None:
    """Raises ConfigError if the value is not in the option's range."""
    if not option.range.contains(value):
        meant = nearest(value, option.range.named) if isinstance(value, str) else ""
        raise ConfigError(f"{key}={show(value)}: must be {option.range.allowed}{meant}")
