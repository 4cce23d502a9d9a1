"""A run folder: create it, write into it, read it back. Imports nothing heavy.

Every file is replaced in one step, so that a reader, or a machine that stops, never leaves half of one.
"""

import csv
import io
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from vae_lightning.config import own_part

if TYPE_CHECKING:
    from PIL import Image

LAST = Path("checkpoints", "last.ckpt")
BEST = Path("checkpoints", "best.ckpt")
STATES = ("running", "finished", "interrupted", "failed")


class Interrupted(Exception):
    """The run was asked to stop and has saved what is needed to go on."""


def create(folder: Path, exclusive: bool, key: str = "hydra.run.dir") -> Path:
    """Makes a run folder and returns its absolute path.

    ``exclusive``: the folder must be new, a suffix -2, -3, ... is added until it is. Otherwise it is taken literally,
    and may exist if it is empty; ValueError, naming ``key``, if it is not.
    """
    if not exclusive:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"{key}={folder}: must be a new or an empty folder")
        folder.mkdir(parents=True, exist_ok=True)
        return folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    candidate, number = folder, 1
    while True:
        try:
            candidate.mkdir()
            return candidate.resolve()
        except FileExistsError:
            number += 1
            candidate = folder.with_name(f"{folder.name}-{number}")


def claim(run: Path) -> AbstractContextManager[object]:
    """Makes this process the only one that trains in the folder until the context ends; ValueError if another does."""
    try:
        return FileLock(run / ".lock").acquire(blocking=False)
    except Timeout as error:
        raise ValueError(f"resume={run}: must not be running (another process is training there)") from error


def replace(path: Path, text: str) -> None:
    """Writes a text file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, newline="")
    os.replace(temporary, path)


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Writes a JSON object in one step."""
    replace(path, json.dumps(content, indent=2) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Writes a table in one step; its columns are all keys of the rows, in the order in which they come up."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(rows)
    replace(path, text.getvalue())


def write_overrides(run: Path, cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Writes .hydra/overrides.yaml, what was typed, and hydra.yaml."""
    replace(run / ".hydra" / "overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(list(overrides))))
    replace(run / ".hydra" / "hydra.yaml", OmegaConf.to_yaml(OmegaConf.masked_copy(cfg, "hydra")))


def write_config(run: Path, cfg: DictConfig) -> None:
    """Writes .hydra/config.yaml: every value, nothing left to interpolate."""
    replace(run / ".hydra" / "config.yaml", OmegaConf.to_yaml(own_part(cfg), resolve=True))


def require(run: Path, key: str) -> None:
    """ValueError, naming ``key``, where the folder holds no run."""
    if not (run / ".hydra" / "config.yaml").is_file():
        raise ValueError(f"{key}={run}: must be a run folder (no .hydra/config.yaml there)")


def read_config(run: Path, key: str) -> tuple[DictConfig, list[str]]:
    """The stored configuration and overrides of a run; ValueError, naming ``key``, where there is none.

    Whatever it says of trust does not count: that is for who reads it to say. Nor does it fall back on other data than
    the run was trained on.
    """
    require(run, key)
    overrides = OmegaConf.load(run / ".hydra" / "overrides.yaml")
    cfg = OmegaConf.load(run / ".hydra" / "config.yaml")
    cfg.trust = False
    cfg.data.fallback = None
    return cfg, list(overrides)


def set_status(run: Path, state: str, reason: str | None = None) -> None:
    """Writes status.json: the state, the reason where it failed, and the alarm of a run that goes on or has ended."""
    assert state in STATES
    alarm = read_json(run / "status.json").get("alarm")
    status = {"state": state, "reason": reason, "alarm": alarm}
    write_json(run / "status.json", {key: value for key, value in status.items() if value})


def set_alarm(run: Path, alarm: str | None) -> None:
    """Adds an alarm to status.json, or takes it away."""
    status = read_json(run / "status.json")
    status["alarm"] = alarm
    write_json(run / "status.json", {key: value for key, value in status.items() if value})


def save_picture(path: Path, picture: "Image.Image") -> bytes:
    """Writes a PNG in one step; returns what it wrote."""
    path.parent.mkdir(exist_ok=True)
    encoded = io.BytesIO()
    if picture.mode == "L":  # with a palette it is encoded in half the time: PNG's filters are then left out
        picture = picture.copy()
        picture.putpalette(bytes(value for value in range(256) for _ in "rgb"))
    picture.save(encoded, format="PNG", compress_level=1)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(encoded.getvalue())
    os.replace(temporary, path)
    return encoded.getvalue()


def share(source: Path, target: Path) -> None:
    """Replaces ``target`` by the same file in one step; by a copy where the file system knows no second name."""
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    os.replace(temporary, target)


def read_json(path: Path) -> dict[str, object]:
    """A JSON object, empty where the file is not there."""
    return json.loads(path.read_text()) if path.is_file() else {}


@contextmanager
def recorded(run: Path) -> Iterator[None]:
    """Keeps status.json and train.log of a run while the body trains it; what is raised goes on to the caller."""
    handler = logging.FileHandler(run / "train.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("vae_lightning")
    logger.addHandler(handler)
    set_status(run, "running")
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        set_status(run, "interrupted")
        logger.info("interrupted")
        raise
    except BaseException as error:
        set_status(run, "failed", f"{type(error).__name__}: {error}")
        logger.error("failed: %s", error, exc_info=True)
        raise
    else:
        set_status(run, "finished")
    finally:
        logger.removeHandler(handler)
        handler.close()


class ConsoleHandler(logging.Handler):
    """Writes log messages to standard error above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line a message; warnings say that they are."""
        prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        tqdm.write(prefix + record.getMessage(), file=sys.stderr)
