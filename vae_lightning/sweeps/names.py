"""Folder names of the jobs of a sweep."""

import hashlib
import re
from collections.abc import Sequence

VALUE_LENGTH, NAME_LENGTH = 24, 80  # characters that are kept


def job_name(swept: Sequence[str]) -> str:
    """The folder name of a job: its swept keys and values, shortened, and a hash of all of them.

    ``swept`` are the words KEY=VALUE in the order in which they were typed. The name has only
    letters, digits, dots, dashes and underscores, and depends on no other job.
    """
    parts = [part(word) for word in swept]
    digest = hashlib.blake2b("\n".join(sorted(swept)).encode(), digest_size=3).hexdigest()
    return f"{'__'.join(parts)[:NAME_LENGTH].strip('-_.') or 'job'}__{digest}"


def part(word: str) -> str:
    """One swept key with its value, as in ``latent_dim-16``."""
    key, _, value = word.lstrip("+~").partition("=")
    short = re.sub(r"[^A-Za-z0-9.-]+", "_", value).strip("_")[:VALUE_LENGTH]
    return f"{re.sub(r'[^A-Za-z0-9_]+', '_', key.rpartition('.')[2])}-{short}"
