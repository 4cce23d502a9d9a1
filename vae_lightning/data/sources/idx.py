"""The IDX files of MNIST-style data sets: found locally or downloaded with verified checksums."""

import gzip
import hashlib
import logging
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urljoin

from filelock import FileLock

from vae_lightning.storage.files import write_bytes

log = logging.getLogger(__name__)

TIMEOUT_S = 10  # of each connection and each read, so that no download hangs


def ensure_files(dataset: type, root: Path, mirrors: Sequence[str] = ()) -> None:
    """Downloads the missing files of a torchvision MNIST-style class into root/NAME/raw.

    The mirrors of the class are tried before ``mirrors``. One process downloads while the others
    wait for a lock. A file appears under its final name only when it is complete and its checksum
    is correct.

    Raises:
        OSError: if no mirror provides a file, or if the folder cannot be written.
    """
    raw = root / dataset.__name__ / "raw"
    if missing_files(dataset, raw):
        raw.mkdir(parents=True, exist_ok=True)
        with FileLock(raw / ".lock"):
            for name, md5 in missing_files(dataset, raw):
                content = gzip.decompress(fetch([*dataset.mirrors, *mirrors], name, md5))
                write_bytes(raw / Path(name).stem, content)


def missing_files(dataset: type, raw: Path) -> list[tuple[str, str]]:
    """(archive, md5) of the files in the table of the torchvision class that ``raw`` lacks."""
    return [(name, md5) for name, md5 in dataset.resources if not (raw / Path(name).stem).is_file()]


def fetch(mirrors: Sequence[str], name: str, md5: str) -> bytes:
    """The bytes of a file from the first mirror with the correct checksum; else OSError."""
    failures = []
    for mirror in mirrors:
        url = urljoin(mirror, name)
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
                content = response.read()
        except (OSError, urllib.error.URLError) as error:
            failures.append(f"{url}: {error}")
            continue
        if hashlib.md5(content, usedforsecurity=False).hexdigest() == md5:
            log.info("downloaded %s", url)
            return content
        failures.append(f"{url}: wrong checksum")
    raise OSError("; ".join(failures))
