"""Dotted keys, such as model.latent_dim, of nested configurations. Imports nothing heavy."""

from collections.abc import Iterator


def known_keys(node: object, prefix: str = "") -> list[str]:
    """Returns all keys of a nested configuration, in dotted form; a plain value has none."""
    keys = []
    for name, value in node.items() if isinstance(node, dict) else ():
        keys += [prefix + name, *known_keys(value, f"{prefix}{name}.")]
    return keys


def leaves(node: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yields the values of a nested configuration with their dotted keys."""
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from leaves(value, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, node


def is_part(key: str, name: str) -> bool:
    """Whether a key is the named one or within it."""
    return key == name or key.startswith(f"{name}.")


def last_part(key: str) -> str:
    """The part of a key after the last dot."""
    return key.rpartition(".")[2]
