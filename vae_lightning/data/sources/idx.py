"""The IDX files of MNIST-style data sets: found locally or downloaded with verified checksums."""

import gzip
import hashlib
import http.client
import logging
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import IO
from urllib.parse import urljoin

from filelock import FileLock

from vae_lightning.storage.files import write_bytes

log = logging.getLogger(__name__)

LOCK = ".lock"  # in the folder of the files
TIMEOUT_S = 10  # of each connection and each read, so that no download hangs
MAX_SECONDS = 600  # of one file from one mirror
MAX_BYTES = 100_000_000  # of one file; the largest, the training images of KMNIST, has 18 million
CHUNK_BYTES = 1 << 16


def ensure_files(dataset: type, root: Path, mirrors: Sequence[str] = ()) -> None:
    """Downloads the missing files of a torchvision MNIST-style class into root/NAME/raw.

    The mirrors of the class are tried before ``mirrors``. One process downloads while the others
    wait for a lock. A file appears under its final name only when it is complete and its checksum
    is correct.

    Raises:
        OSError: if no mirror provides a file, or if the folder cannot be written.
    """
    raw = folder_of(dataset, root)
    if not missing_files(dataset, root):
        return
    created = [folder for folder in (raw, *raw.parents) if not folder.exists()]
    raw.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(raw / LOCK):
            for name, md5 in missing_files(dataset, root):
                content = gzip.decompress(fetch([*dataset.mirrors, *mirrors], name, md5))
                write_bytes(raw / Path(name).stem, content)
    except OSError:
        remove_empty(created)
        raise


def remove_empty(created: Sequence[Path]) -> None:
    """Removes the folders that were made for a download if they are empty, inner ones first."""
    for folder in created:
        if {path.name for path in folder.iterdir()} - {LOCK}:
            return
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()


def folder_of(dataset: type, root: Path) -> Path:
    """Where the files of a torchvision class are."""
    return root / dataset.__name__ / "raw"


def missing_files(dataset: type, root: Path) -> list[tuple[str, str]]:
    """(archive, md5) of the files in the table of the torchvision class that ``root`` lacks."""
    raw = folder_of(dataset, root)
    return [(name, md5) for name, md5 in dataset.resources if not (raw / Path(name).stem).is_file()]


def fetch(mirrors: Sequence[str], name: str, md5: str) -> bytes:
    """The bytes of a file from the first mirror with the correct checksum; else OSError."""
    failures = []
    for mirror in mirrors:
        url = urljoin(mirror, name)
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
                content = read_bounded(response)
        except (OSError, http.client.HTTPException, ValueError) as error:
            failures.append(f"{url}: {error}")
            continue
        if hashlib.md5(content, usedforsecurity=False).hexdigest() == md5:
            log.info("downloaded %s", url)
            return content
        failures.append(f"{url}: wrong checksum")
    raise OSError("; ".join(failures))


def read_bounded(response: IO[bytes]) -> bytes:
    """All bytes of a response; OSError if it takes too long, has too many, or breaks off."""
    content, started = bytearray(), time.monotonic()
    while chunk := response.read(CHUNK_BYTES):
        content += chunk
        if len(content) > MAX_BYTES:
            raise OSError(f"has more than {MAX_BYTES:,} bytes")
        if time.monotonic() - started > MAX_SECONDS:
            raise OSError(f"takes more than {MAX_SECONDS} seconds")
    return bytes(content)
