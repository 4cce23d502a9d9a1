"""What the driver of a sweep asks of a launcher and of the jobs that it starts."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from omegaconf import DictConfig

from vae_lightning.sweeps.job import Task
from vae_lightning.sweeps.launchers.slots import Need, Room


class Running(Protocol):
    """A job that was started."""

    @property
    def reason(self) -> str:
        """Why the job has ended, if only the launcher knows; otherwise empty."""
        ...

    def exit_code(self) -> int | None:
        """How the job ended; None while it waits or runs. 130 and 143: it was interrupted."""
        ...

    def ask_to_stop(self) -> None:
        """Asks the job to save and end; it may have ended already."""
        ...

    def kill(self) -> None:
        """Kills the job at once."""
        ...

    def close(self) -> None:
        """Frees what belongs to a job that has ended."""
        ...


class Launcher(Protocol):
    """Starts jobs."""

    def start(self, task: Task, need: Need) -> Running | None:
        """Starts a job, or finds it if it runs already; None if it has to be tried again later."""
        ...

    def wait(self, running: Sequence[Any], seconds: float, /) -> None:
        """Waits until one of the jobs may have ended, about so many seconds at most."""
        ...

    def keeps(self, number: int) -> bool:
        """Whether the jobs go on when this signal ends the driver."""
        ...


class Site(NamedTuple):
    """Where the jobs of a sweep run."""

    launcher: Launcher
    need_of: Callable[[DictConfig], Need]  # raises ConfigError for a job that cannot run there
    make_room: Callable[[Sequence[Need]], Room]
    check: Callable[[Sequence[Need]], None]  # raises ConfigError, before anything is written
