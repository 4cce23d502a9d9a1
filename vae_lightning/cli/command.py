"""Turns a function of a configuration into a command with exit codes.

Exit codes: 0 success, 2 invalid command or configuration, 130 stopped by Ctrl-C, 143 stopped by
another signal, 1 any other failure.
"""

import errno
import functools
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

from omegaconf import DictConfig, OmegaConf, open_dict
from tqdm import tqdm

from vae_lightning.checks.errors import ConfigError, Interrupted, NotFinite, ProcessLost
from vae_lightning.checks.ranges import AnyOf, Boolean, Choice, Integer, Option, Text, check_value
from vae_lightning.cli import arguments
from vae_lightning.cli.help import defaults, describe_options, help_page
from vae_lightning.config.compose import compose, unknown_key
from vae_lightning.config.dotted import known_keys
from vae_lightning.config.hydra_table import check_words
from vae_lightning.config.interpolations import check_references
from vae_lightning.storage.run_folder import RECORD_LOGGER, of_run, to_dict

Task = Callable[[DictConfig], bool | None]

OPTIONAL_FOLDER = AnyOf((Text("a folder"), Choice((None,))))
# what all commands that read a run have in common
RUN_OPTIONS = {
    "run": Option("run folder", Text("a path")),
    "checkpoint": Option("weights: of the best or of the last epoch", Choice(("best", "last"))),
    "data.root": Option(
        "folder of the image files; null: that of the run, else VAE_LIGHTNING_DATA",
        OPTIONAL_FOLDER,
    ),
    "trust": Option("allow your own classes in the stored configuration", Boolean()),
}
LABEL = AnyOf((Integer(0), Choice((None,))))
# what the commands that read images have in common
IMAGE_OPTIONS = RUN_OPTIONS | {
    "images": Option(
        "new images: an image file, a .npy or .npz file, or a folder; null: those of split",
        AnyOf((Text("a path"), Choice((None,)))),
    ),
    "split": Option("images of the data set of the run", Choice(("train", "val", "test"))),
    "count": Option(
        "number of images, the first ones; null: all", AnyOf((Integer(1), Choice((None,))))
    ),
    "label": Option(
        "class that a conditional model conditions on; null: the labels of the images", LABEL
    ),
}
# what a disk, a file system or its permissions cause, and no programming error
STORAGE_ERRORS = {
    getattr(errno, name)
    for name in (
        "ENOSPC",
        "EDQUOT",
        "EFBIG",
        "EROFS",
        "EACCES",
        "EPERM",
        "EIO",
        "ENOTDIR",
        "ESTALE",
    )
    if hasattr(errno, name)
}


class ConsoleHandler(logging.Handler):
    """Writes log messages to standard error, above any progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one line per message; warnings and errors start with their level."""
        if record.name == RECORD_LOGGER:
            return
        prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        tqdm.write(prefix + record.getMessage(), file=sys.stderr)


def is_storage_error(error: BaseException | None) -> bool:
    """Whether a disk, a file system or its permissions caused an error."""
    return isinstance(error, OSError) and error.errno in STORAGE_ERRORS


def report_thread(args: threading.ExceptHookArgs) -> None:
    """Prints the traceback of a thread, unless it could not write: the main thread says that."""
    if not is_storage_error(args.exc_value):
        threading.__excepthook__(args)


@contextmanager
def console(handler: logging.Handler) -> Iterator[None]:
    """Within the context, the messages of the package go to the handler, from INFO on."""
    logger = logging.getLogger("vae_lightning")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turns ConfigError into a one-line message and exit code 2, a signal into code 130 or 143.

    Numbers that are not finite and files that cannot be written are one line too, with exit code 1.
    A reader of the output that has gone, such as ``head``, is exit code 1 without a word. All other
    exceptions keep their traceback.
    """
    hook_before, threading.excepthook = threading.excepthook, report_thread
    try:
        with while_somebody_reads(), console(ConsoleHandler(logging.INFO)):
            yield
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (NotFinite, ProcessLost) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if not is_storage_error(error):
            raise
        place = error.filename2 or error.filename
        where = f"{place}: " if place else ""
        print(f"error: {where}{error.strerror}", file=sys.stderr)
        sys.exit(1)
    except Interrupted as interruption:
        sys.exit(interruption.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    finally:
        threading.excepthook = hook_before


@contextmanager
def while_somebody_reads() -> Iterator[None]:
    """Ends the program with code 1 if stdout is a pipe whose reader has gone."""
    stdout = sys.stdout
    if stdout is None:  # closed by the shell: >&-
        yield
        return
    try:
        try:
            yield
        finally:
            stdout.flush()
    except BrokenPipeError:
        if not has_lost_its_reader(stdout):
            raise
        # what is not written yet goes nowhere, instead of raising again when Python exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
        sys.exit(1)


def has_lost_its_reader(stream: TextIO) -> bool:
    """Returns whether nothing can be written any more; writes an empty line otherwise."""
    try:
        print(file=stream, flush=True)
    except BrokenPipeError:
        return True
    return False


def command(
    name: str, options: Mapping[str, Option], folders: bool = False
) -> Callable[[Task], Callable[[], None]]:
    """Decorates a function of a configuration: the result is a command without arguments.

    The command composes the configuration from ``conf/NAME.yaml`` and the command line, and checks
    it against the described options. With ``folders``, words that are no options are folders, and
    become ``cfg.folders``. The function raises ConfigError for invalid input and returns False if
    the command failed.
    """

    def decorate(function: Task) -> Callable[[], None]:
        @functools.wraps(function)
        def main() -> None:
            with exit_codes():
                cfg = configuration(name, options, sys.argv[1:], folders)
                if cfg is not None and function(cfg) is False:
                    sys.exit(1)

        return main

    return decorate


def configuration(
    name: str, options: Mapping[str, Option], argv: list[str], folders: bool = False
) -> DictConfig | None:
    """The checked configuration of a command; None if it was only asked for information."""
    args = arguments.parse(argv, name)
    if args.help:
        print(help_page(name, {"options": describe_options(options, defaults(name))}))
        return None
    if arguments.asks_for_information(args):
        arguments.print_information(name, args)
        return None
    if args.multirun:
        raise ConfigError("-m: must be used with train, because only train runs sweeps")
    check_words(args.overrides, name)
    places = [word for word in args.overrides if folders and word.partition("=")[0] not in options]
    words = [word for word in args.overrides if word not in places]
    if "run" in options:
        words = with_run(words)
    if folders and not places:
        raise ConfigError(f"{name}: requires at least one folder of a sweep or of a run")
    cfg = compose(name, words)
    for key in known_keys(to_dict(of_run(cfg), resolve=False)):
        if key not in options and not any(option.startswith(f"{key}.") for option in options):
            raise ConfigError(unknown_key(key, name))
    check_references(of_run(cfg))
    for key, option in options.items():
        section = key.rpartition(".")[0]
        if section and not OmegaConf.is_dict(value := OmegaConf.select(cfg, section)):
            raise ConfigError(f"{section}={value}: must be given by its keys, such as {key}")
        if OmegaConf.is_missing(cfg, key):
            example = f"{key}=outputs/2026-01-31/12-00-00"
            raise ConfigError(f"{key}: must be given, for example {example}")
        check_value(key, OmegaConf.select(cfg, key), option)
    check_used(words, cfg)
    if cfg.get("out") is not None:
        check_place(Path(cfg.out), options["out"].range == OPTIONAL_FOLDER)
    if folders:
        with open_dict(cfg):
            cfg.folders = places
    return cfg


def with_run(words: list[str]) -> list[str]:
    """The words of a command that reads a run; a word that is no option names the run.

    Raises ConfigError if several words name one.
    """
    named = [word for word in words if "=" not in word and not word.startswith("~")]
    if not named:
        return words
    runs = [*named, *(word for word in words if word.startswith("run="))]
    if len(runs) > 1:
        raise ConfigError(f"{' '.join(runs)}: must be one run folder")
    return [f"run={word}" if word in named else word for word in words]


def check_used(words: list[str], cfg: DictConfig) -> None:
    """Raises ConfigError for an option that has no effect beside the others."""
    for word in words:
        key = word.partition("=")[0]
        if key == "split" and cfg.get("images") is not None:
            raise ConfigError(f"{word}: must not be given with images, which belong to no split")
        if key.startswith("ais.") and cfg.method != "ais":
            raise ConfigError(f"{word}: requires method=ais")


def check_place(output: Path, is_folder: bool) -> None:
    """Raises ConfigError before the work if the output cannot be written."""
    if is_folder and os.path.lexists(output) and not output.is_dir():
        raise ConfigError(f"out={output}: must be a folder, but something else is there")
    folder = next(parent for parent in output.absolute().parents if os.path.lexists(parent))
    try:
        with suppress(FileNotFoundError):
            output.lstat()  # refuses a name that is too long
        with TemporaryDirectory(dir=folder):  # permissions alone do not tell, such as in /proc
            pass
    except OSError as error:
        raise ConfigError(
            f"out={output}: must be in a folder that can be written, not {folder}"
            f" ({error.strerror})"
        ) from error
