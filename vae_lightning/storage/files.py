"""Reads and writes files. All writes are atomic: a reader never sees a partly written file."""

import csv
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vae_lightning.checks.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

TEMPORARY = ".tmp-"  # the names of files that are being written begin with it


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path; the file that the body writes there then replaces ``path``.

    The replacement is atomic. The file and its folder are synced to disk, so that a power failure
    leaves either the old file or the new one. If the body raises, ``path`` stays unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with discarded_on_error(temporary_path(path)) as temporary:
        yield temporary
        replace(temporary, path)


def temporary_path(path: Path) -> Path:
    """Returns the path in the same folder where the next content of a file is written."""
    return path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")


@contextmanager
def discarded_on_error(temporary: Path) -> Iterator[Path]:
    """Yields the path; removes the file there if the body raises."""
    try:
        yield temporary
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def replace(temporary: Path, path: Path) -> None:
    """Replaces ``path`` by a temporary file in one step, and syncs file and folder to disk."""
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


def remove_temporary(folder: Path) -> None:
    """Removes the temporary files that killed processes left in a folder and its subfolders."""
    for path in folder.rglob(f"{TEMPORARY}*"):
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Waits until the content of a file or the entries of a folder are on disk."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, newline="", encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a binary file atomically."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Writes a JSON object atomically."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Writes a CSV table atomically.

    Its columns are all keys of the rows, in the order of their first appearance.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_arrays(path: Path, arrays: Mapping[str, "np.ndarray"]) -> Path:
    """Writes a .npz file of arrays of numbers or texts atomically; returns its path."""
    import numpy as np  # only where arrays are written

    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType] - it takes allow_pickle too
    return path


def read_json(path: Path) -> dict[str, object]:
    """Returns a JSON object, empty if there is no file; raises ConfigError if it is damaged."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: {path.name} is damaged ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: {path.name} is damaged (it must contain a JSON object)")
    return content


def read_csv(path: Path) -> list[dict[str, str]]:
    """Returns the rows of a table, none if there is no file; raises ConfigError if damaged."""
    if not path.is_file():
        return []
    try:
        return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {path.name} is damaged ({error})") from error


def number(content: Mapping[str, object], name: str) -> float:
    """Returns the number that a JSON object holds under a name."""
    value = content[name]
    assert isinstance(value, int | float)
    return value


def link(source: Path, target: Path) -> None:
    """Makes ``target`` a hard link to ``source`` atomically; copies if links are unsupported."""
    with atomic_write(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
