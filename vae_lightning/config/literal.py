"""Options that are paths, and how Hydra is told to take a text literally."""

import re

# options whose values are paths
PATH_KEYS = (
    *("run", "resume", "status", "init_from", "from_config", "out", "images"),
    *("data.root", "trainer.default_root_dir", "hydra.run.dir", "hydra.sweep.dir"),
)


def literal_path(override: str) -> str:
    """Quotes the value of an option that is a path, so that Hydra takes all characters literally.

    Values that are quoted already, and the variables of Hydra in its own options, keep their
    meaning.
    """
    key, equals, value = override.partition("=")
    is_own = key.startswith("hydra.") and "${" in value
    if key.lstrip("+") not in PATH_KEYS or not value or value == "null" or is_own:
        return override
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return override
    return f"{key}{equals}{quoted(value)}"


def quoted(text: str) -> str:
    """Returns a text in quotes, which Hydra takes literally."""
    # a quote and the start of an interpolation are escaped, and backslashes before them are doubled
    escaped = re.sub(r"(\\*)('|\$\{)", r"\1\1\\\2", text)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return f"'{escaped}'"
