"""The exception for invalid user input, and functions that format its message."""

import difflib
from collections.abc import Iterable
from pathlib import Path


class ConfigError(ValueError):
    """Invalid input to a command, a configuration or a call.

    The message is one line with the key, the value and the allowed values. Commands print it
    without a traceback and exit with code 2. Any other exception is a bug, in this package or in a
    user's class, and keeps its traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class Interrupted(Exception):
    """A run was interrupted and saved the state that it needs to continue."""

    def __init__(self, run: Path) -> None:
        super().__init__(f"{run} was interrupted")
        self.run = run


def one_line(message: object) -> str:
    """Returns the text of a message with each run of whitespace replaced by one space."""
    return " ".join(str(message).split())


def nearest(name: str, names: Iterable[str], exclude: str = "") -> str:
    """Returns "; did you mean NAME?" if a valid name is similar, else an empty string."""
    close = difflib.get_close_matches(name, [other for other in names if other != exclude], n=1)
    return f"; did you mean {close[0]}?" if close else ""


def show(value: object) -> str:
    """Returns a value as it is written on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)
