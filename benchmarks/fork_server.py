"""Starts commands by forking a process that has imported PyTorch already: 0.1 s instead of 5 s.

The commands are processes of their own, with their own arguments, folder, environment and terminal.
A fault sends a signal to a command when it calls a function for the n-th time.
"""

import functools
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

PRELOADED = (
    "vae_lightning.compile",
    "vae_lightning.plots.gallery",
    "vae_lightning.training.experiment",
    "vae_lightning.train",
)


@dataclass(frozen=True)
class Fault:
    """Sends a signal when a function is called for the n-th time, before or after the call."""

    place: str  # module:function or module:Class.method
    number: int
    call: int = 1
    after: bool = False
    times: int = 1  # signals, one after the other


class Done(NamedTuple):
    """How a command ended; the exit code is negative if a signal killed it."""

    returncode: int
    stdout: str
    stderr: str


class ForkServer:
    """A process that forks commands, one at a time."""

    def __enter__(self) -> Self:
        self.folder = tempfile.TemporaryDirectory()
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.fork_server"],
            cwd=Path(__file__).parents[1],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()
        self.folder.cleanup()

    def run(
        self,
        command: str,
        *arguments: str,
        cwd: Path,
        variables: Mapping[str, str | None] | None = None,
        faults: Sequence[Fault] = (),
        kill_after: float | None = None,
        number: int = signal.SIGKILL,
        timeout: float = 300,
        largest_file: int | None = None,
    ) -> Done:
        """Runs a command of this package and waits for it.

        ``variables`` change the environment; None removes a variable.
        ``kill_after`` sends the signal ``number`` after so many seconds. A command that takes
        longer than ``timeout`` is killed, and its exit code is -9. No file that the command writes
        can have more than ``largest_file`` bytes, which stands for a full disk.
        """
        assert self.process.stdin
        assert self.process.stdout
        outputs = [Path(self.folder.name, name) for name in ("stdout", "stderr")]
        request = {
            "module": f"vae_lightning.{command}",
            "arguments": list(arguments),
            "cwd": str(cwd),
            "variables": os.environ | {"OMP_NUM_THREADS": "1"} | dict(variables or {}),
            "outputs": [str(path) for path in outputs],
            "largest_file": largest_file,
            "faults": [asdict(fault) for fault in faults],
        }
        print(json.dumps(request), file=self.process.stdin, flush=True)
        pid = int(self.process.stdout.readline())
        timers = [threading.Timer(timeout, os.kill, (pid, signal.SIGKILL))]
        if kill_after is not None:
            timers.append(threading.Timer(kill_after, kill, (pid, number)))
        for timer in timers:
            timer.daemon = True
            timer.start()
        code = int(self.process.stdout.readline())
        for timer in timers:
            timer.cancel()
        return Done(code, *(path.read_text(errors="replace") for path in outputs))


def kill(pid: int, number: int) -> None:
    """Sends a signal to a process, which may have ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def inject(fault: Fault) -> None:
    """Makes the function send the signal to this process."""
    module, _, name = fault.place.partition(":")
    *owners, function = name.split(".")
    owner: Any = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    original: Callable[..., object] = getattr(owner, function)
    calls = 0

    @functools.wraps(original)
    def faulty(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == fault.call and not fault.after:
            send(fault)
        result = original(*args, **kwargs)
        if calls == fault.call and fault.after:
            send(fault)
        return result

    setattr(owner, function, faulty)


def send(fault: Fault) -> None:
    """Sends the signals of a fault to this process."""
    for _ in range(fault.times):
        os.kill(os.getpid(), fault.number)


def child(request: Mapping[str, Any]) -> int:
    """Runs the command of a request in a forked process; returns its exit code."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) is signal.SIG_IGN and number != signal.SIGPIPE:
            signal.signal(number, signal.SIG_DFL)  # nohup and shells ignore some
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request["largest_file"] is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file"], hard))
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update({k: v for k, v in request["variables"].items() if v is not None})
    for number, path in zip((1, 2), request["outputs"], strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = [request["module"], *request["arguments"]]
    sys.path.insert(0, request["cwd"])
    try:
        for fault in request["faults"]:
            inject(Fault(**fault))
        importlib.import_module(request["module"]).main()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def serve() -> None:
    """Forks a child for every line on standard input; answers with its number and its exit code."""
    for name in PRELOADED:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = child(request)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
