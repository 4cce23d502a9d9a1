"""Ranges of texts that have a form: words, names with words, times. Imports nothing heavy."""

import re
from dataclasses import dataclass

from vae_lightning.checks.ranges import Range, Text


@dataclass(frozen=True)
class Word(Text):
    """A text without spaces and without characters that a shell would obey."""

    def contains(self, value: object) -> bool:
        """Whether the value is such a text."""
        return super().contains(value) and re.fullmatch(r"[\w@%+:,./=-]+", str(value)) is not None


@dataclass(frozen=True)
class Words(Range):
    """A mapping, possibly empty, of names to words or integers."""

    what: str

    def contains(self, value: object) -> bool:
        """Whether the value is such a mapping."""
        if not isinstance(value, dict):
            return False
        words = [*value, *(str(word) for word in value.values())]
        return all(map(Word("").contains, words))

    @property
    def allowed(self) -> str:
        """What the mapping stands for."""
        return self.what


@dataclass(frozen=True)
class Duration(Range):
    """A time in days, hours, minutes and seconds."""

    def contains(self, value: object) -> bool:
        """Whether the value is a text such as 00:12:30:00, and more than no time."""
        if not isinstance(value, str) or not re.fullmatch(r"\d+:\d\d:[0-5]\d:[0-5]\d", value):
            return False
        return seconds_of(value) > 0

    @property
    def allowed(self) -> str:
        """The format."""
        return "a time as DD:HH:MM:SS, for example 00:12:30:00"


def seconds_of(duration: str) -> int:
    """The seconds of a time that is written as DD:HH:MM:SS."""
    days, hours, minutes, seconds = map(int, duration.split(":"))
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
