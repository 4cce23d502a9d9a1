"""The exception for invalid user input, and functions that format its message."""

import difflib
import signal
from collections.abc import Iterable
from pathlib import Path

HUGE = 1e8  # a term of the loss has more digits than fit into a table only after a divergence


class ConfigError(ValueError):
    """Invalid input to a command, a configuration or a call.

    The message is one line with the key, the value and the allowed values. Commands print it
    without a traceback and exit with code 2. Any other exception is a bug, in this package or in a
    user's class, and keeps its traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class NotFinite(FloatingPointError):
    """A term of the loss or a parameter is not a finite number; nothing after it is right.

    The message is one line. Commands print it without a traceback and exit with code 1.
    """


class ProcessLost(RuntimeError):
    """Another process of a run has ended. It has said why, unless it was killed.

    Commands print the message without a traceback and exit with code 1.
    """


class Interrupted(BaseException):
    """A signal asked a run to stop. What it needs to continue is saved.

    It does not derive from Exception, so that no handler of errors takes it for one.

    Args:
        number: the signal.
        run: the run folder; None if there is none yet.
    """

    state = "interrupted"  # that the run has from now on

    def __init__(self, number: int, run: Path | None = None) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number, self.run = number, run

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after every other signal."""
        return 130 if self.number == signal.SIGINT else 143


class Pruned(Interrupted):
    """A search ended a run early. What the run needs to continue is saved."""

    state = "pruned"

    def __init__(self, run: Path) -> None:
        BaseException.__init__(self, "pruned by the search")
        self.run = run

    @property
    def exit_code(self) -> int:
        """The run ended in order."""
        return 0


def one_line(message: object) -> str:
    """Returns the text of a message with each run of whitespace replaced by one space."""
    return " ".join(str(message).split())


def escaped(text: str) -> str:
    """Returns a text with the characters escaped that a terminal would obey."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun in singular or plural: 1 epoch, 2 epochs."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def decimals(value: float, digits: int) -> str:
    """Returns a number with so many decimals; a huge one in short form, such as 2.06e+34."""
    return f"{value:.{digits}f}" if abs(value) < HUGE else f"{value:.2e}"


def nearest(name: str, names: Iterable[str], exclude: str = "") -> str:
    """Returns "; did you mean NAME?" if a valid name is similar, else an empty string."""
    close = difflib.get_close_matches(name, [other for other in names if other != exclude], n=1)
    return f"; did you mean {close[0]}?" if close else ""


def show(value: object) -> str:
    """Returns a value as it is written on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)
