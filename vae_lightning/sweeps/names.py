"""Folder names of the jobs of a sweep."""

import hashlib
import re
from collections.abc import Sequence


def slug(overrides: Sequence[str]) -> str:
    """The folder name of a job: its overrides, shortened and escaped, and a hash of all of them."""
    words = [
        re.sub(r"[^A-Za-z0-9.=_-]+", "_", re.sub(r"^[^=]*\.", "", override))
        for override in overrides
    ]
    digest = hashlib.blake2b("\n".join(sorted(overrides)).encode(), digest_size=4).hexdigest()
    return f"{'-'.join(words)[:80].strip('-_') or 'defaults'}-{digest}"
