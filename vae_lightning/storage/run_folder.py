"""Creates a run folder and writes the configuration and state of the run to it."""

import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigTypeError

from vae_lightning.checks.errors import ConfigError, Interrupted, Pruned, show
from vae_lightning.storage.files import TEMPORARY, read_json, write_json, write_text
from vae_lightning.storage.lock import LOCK, claim

LAST = Path("checkpoints", "last.ckpt")
BEST = Path("checkpoints", "best.ckpt")
HYDRA = Path(".hydra", "hydra.yaml")
ENVIRONMENT = Path("environment.json")
UNCOMMITTED = Path("uncommitted.patch")
IMAGES = Path("images.npz")  # what a program gave to the run as arrays
# numbers of metrics.csv, and of metrics.json, that a clock measures
CLOCK_COLUMNS = ("seconds", "images_per_second")
CLOCK_KEYS = (*CLOCK_COLUMNS, "training_seconds", "seconds_per_epoch")
# what is logged here appears in train.log only, not on the terminal
SWEEP = Path("sweep.yaml")  # in a sweep folder
RECORD_LOGGER = "vae_lightning.record"
# what a run writes before its configuration
FIRST_FILES = {LOCK, "status.json", "train.log", ".hydra/overrides.yaml", ".hydra/hydra.yaml"}
# nodes of a composed configuration that a run does not store
OTHER_NODES = ("hydra", "launcher", "search", "sweep")
STATES = ("running", "finished", "interrupted", "pruned", "failed")
STOP = Path("stop")  # a file with which a search asks a run to end after its current epoch


@contextmanager
def new_folder(folder: Path, exclusive: bool, key: str = "hydra.run.dir") -> Iterator[Path]:
    """Creates a folder and yields its absolute path.

    If the body raises ConfigError, the folders that were created are removed if they are empty.

    Args:
        folder: the path of the folder.
        exclusive: create a folder that did not exist, with a suffix -2, -3, ... if the name is
            taken. Otherwise the folder may exist if it is empty.
        key: the option that names the folder, for the error message.

    Raises ConfigError if the folder is not empty and ``exclusive`` is false.
    """
    created = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        path = create_unique_folder(folder) if exclusive else create_empty_folder(folder, key)
    except OSError as error:
        raise ConfigError(f"{key}={folder}: must be a folder that can be made ({error})") from error
    if path.name != folder.name:
        created = [path]
    try:
        yield path
    except ConfigError:
        for parent in created:
            if any(parent.iterdir()):
                break
            parent.rmdir()
        raise


def create_empty_folder(folder: Path, key: str) -> Path:
    """Creates the folder with exactly this path; it may exist if it is empty.

    What a run left that was killed before its configuration was written is removed.
    """
    if folder.is_dir():
        remove_unstarted(folder, key)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{key}={folder}: must be a new or empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def remove_unstarted(folder: Path, key: str) -> None:
    """Empties a folder that holds nothing but the first files of a run without a configuration.

    A sweep writes such files too if a job failed before its run began.
    """
    found = [path for path in folder.rglob("*") if path.is_file()]
    names = {str(path.relative_to(folder)) for path in found if TEMPORARY not in path.name}
    if LOCK in names and names <= FIRST_FILES:
        with claim(folder, key):
            for path in found:
                path.unlink()
            for path in folder.iterdir():
                path.rmdir()


def create_unique_folder(folder: Path) -> Path:
    """Creates a folder that did not exist, with a suffix -2, -3, ... if the name is taken."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    candidate, number = folder, 1
    while True:
        try:
            candidate.mkdir()
            return candidate.resolve()
        except FileExistsError:
            number += 1
            candidate = folder.with_name(f"{folder.name}-{number}")


def of_run(cfg: DictConfig) -> DictConfig:
    """Returns the part of a configuration that belongs to one run, not to Hydra or a sweep."""
    return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in OTHER_NODES])


def to_dict(node: DictConfig, resolve: bool = True) -> dict[str, object]:
    """Returns a part of a configuration as plain Python, which nothing can write back through."""
    values = OmegaConf.to_container(node, resolve=resolve)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def read_yaml(path: Path) -> DictConfig:
    """Reads a configuration; raises an OmegaConfBaseException if the file holds something else."""
    cfg = OmegaConf.load(path)
    if not isinstance(cfg, DictConfig):
        raise ConfigTypeError(f"{path}: must hold a mapping")
    return cfg


def write_overrides(run: Path, cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Writes .hydra/overrides.yaml, the overrides of the command line, and .hydra/hydra.yaml."""
    text = OmegaConf.to_yaml(OmegaConf.create([plain_word(word, cfg) for word in overrides]))
    write_text(run / ".hydra" / "overrides.yaml", text)
    hydra = OmegaConf.to_yaml(OmegaConf.masked_copy(cfg, "hydra"))
    write_text(run / HYDRA, hydra)


def plain_word(word: str, cfg: DictConfig) -> str:
    """An override with its value instead of an interpolation, so that it can be stored."""
    key = word.partition("=")[0]
    if "${" not in word.replace("\\", ""):
        return word
    return f"{key}={show(OmegaConf.select(cfg, key.lstrip('+')))}"


def read_choices(run: Path) -> dict[str, str]:
    """Group -> the option that was chosen, from .hydra/hydra.yaml; empty if that is not there."""
    path = run / HYDRA
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    content = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # C takes a tenth
    for key in ("hydra", "runtime", "choices"):
        content = content.get(key) if isinstance(content, dict) else None
    pairs = content.items() if isinstance(content, dict) else ()
    return {str(group): str(choice) for group, choice in pairs if choice is not None}


def write_config(run: Path, cfg: DictConfig) -> None:
    """Writes .hydra/config.yaml: all values, with all interpolations resolved."""
    text = OmegaConf.to_yaml(of_run(cfg), resolve=True)
    write_text(run / ".hydra" / "config.yaml", text)


def read_status(run: Path) -> dict[str, object]:
    """Returns the content of status.json, empty if there is no such file."""
    return read_json(run / "status.json")


def write_status(run: Path, state: str, reason: str | None = None) -> None:
    """Writes status.json: the state, the reason for a failure, and the current alarm."""
    assert state in STATES
    status = {"state": state, "reason": reason, "alarm": read_status(run).get("alarm")}
    write_json(run / "status.json", {key: value for key, value in status.items() if value})


def write_failure(run: Path, reason: str) -> None:
    """Records that a run failed without recording it itself, unless another process works on it."""
    run.mkdir(parents=True, exist_ok=True)
    try:
        with claim(run):
            write_status(run, "failed", reason)
    except ConfigError:
        return


def write_alarm(run: Path, alarm: str | None) -> None:
    """Writes a warning, such as a collapse of the posterior, to status.json; None removes it."""
    status = read_status(run) | {"alarm": alarm}
    write_json(run / "status.json", {key: value for key, value in status.items() if value})


class RecordHandler(logging.FileHandler):
    """Writes train.log; on a full disk the run fails at its next checkpoint, which says why."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Prints the traceback of an error, unless the file cannot be written."""
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


@contextmanager
def recorded(run: Path) -> Iterator[None]:
    """Writes status.json and train.log of a run while the body trains it.

    Exceptions are passed on; an interruption also names the run.
    """
    handler = RecordHandler(run / "train.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("vae_lightning")
    logger.addHandler(handler)
    try:
        write_status(run, "running")
        yield
    except Pruned as error:
        write_status(run, error.state)
        logger.info("%s", error)
        raise
    except (Interrupted, KeyboardInterrupt) as error:
        write_status(run, "interrupted")
        logging.getLogger(RECORD_LOGGER).info("interrupted")  # the command says how to continue
        raise Interrupted(getattr(error, "number", signal.SIGINT), run) from error
    except BaseException as error:
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = error.filename or str(run)
        with suppress(OSError):  # of a full disk: the error itself says more
            write_status(run, "failed", f"{type(error).__name__}: {error}")
        logging.getLogger(RECORD_LOGGER).error("failed: %s", error, exc_info=True)
        raise
    else:
        write_status(run, "finished")
    finally:
        (run / STOP).unlink(missing_ok=True)
        logger.removeHandler(handler)
        handler.close()
