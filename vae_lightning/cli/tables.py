"""Formats tables for the terminal."""

from collections.abc import Mapping, Sequence

from vae_lightning.checks.errors import decimals


def cell(value: object, digits: int = 3) -> str:
    """Returns the text of a table cell; floats are rounded to ``digits`` decimals."""
    return decimals(value, digits) if isinstance(value, float) else str(value)


def columns(rows: Sequence[Mapping[str, object]], names: Sequence[str]) -> str:
    """Returns a header line and a line for each row, right-aligned; missing values are blank."""
    cells = [[cell(row.get(name, "")) for name in names] for row in rows]
    sizes = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    return "\n".join("  ".join(map(str.rjust, line, sizes)) for line in [list(names), *cells])


def pairs(values: Mapping[str, object], digits: int = 4) -> str:
    """Returns a line for each name and its value."""
    width = max(map(len, values))
    return "\n".join(f"{name:<{width}}  {cell(value, digits)}" for name, value in values.items())
