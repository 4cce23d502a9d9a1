"""The signals that ask a run to stop: Ctrl-C, and what shells, schedulers and clusters send."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

from vae_lightning.checks.errors import Interrupted

log = logging.getLogger(__name__)

# Windows has neither SIGHUP nor SIGUSR1 and SIGUSR2
STOP_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)
STOPPING = "stopping after this step; press Ctrl-C again to stop now"


class StopSignals:
    """Within the context, the first signal asks the run to stop and the second one kills it.

    The first signal raises Interrupted at once, except within ``deferred``: there it takes effect
    at the next ``check``, so that training stops only where it can continue with the same numbers.
    Other signals than Ctrl-C stay ignored if the parent process ignores them, as nohup does with
    SIGHUP. In a thread that is not the main one, Python handles no signals, and the context does
    nothing.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.is_deferred = False
        self.handlers: dict[int, Any] = {}
        self.before_kill: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self.handlers = {
                number: signal.getsignal(number)
                for number in STOP_SIGNALS
                if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN
            }
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def install(self) -> None:
        """Handles the signals; also to be called after another program has replaced a handler."""
        for number in self.handlers:
            signal.signal(number, self.receive)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal."""
        if self.received is not None:
            self.end(number)
        self.received = number
        if not self.is_deferred:
            raise Interrupted(number)
        # in a thread: the signal may have come while this thread writes a line, which Python does
        # not allow to be cut by another line
        threading.Thread(target=log.info, args=(STOPPING,)).start()

    def end(self, number: int) -> None:
        """Ends the process at the second signal."""
        if self.before_kill:
            self.before_kill()
        os._exit(Interrupted(number).exit_code)

    def check(self) -> None:
        """Raises Interrupted if a signal was received."""
        if self.received is not None:
            raise Interrupted(self.received)

    @contextmanager
    def deferred(self, before_kill: Callable[[], None]) -> Iterator[None]:
        """Within the context, signals take effect at ``check`` only, and at the end of the body.

        ``before_kill`` is called when a second signal arrives.
        """
        self.is_deferred, self.before_kill = True, before_kill
        try:
            yield
        finally:
            self.is_deferred, self.before_kill = False, None
        self.check()


class CallSignals(StopSignals):
    """The signals of a run that a function call trains; its process must outlive the run."""

    def end(self, number: int) -> None:
        """Raises Interrupted at the second signal, wherever the run is."""
        raise Interrupted(number)


class IgnoredSignals(StopSignals):
    """Ignores the signals: the first process of a run decides for all of them when to stop."""

    def install(self) -> None:
        """Ignores the signals, also those that Lightning has begun to handle."""
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
