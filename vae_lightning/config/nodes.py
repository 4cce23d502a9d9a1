"""Reads parts of a composed configuration."""

from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf


def class_nodes(node: DictConfig, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """The parts of a configuration that name a class, and cfg.data, with their dotted keys."""
    for key in node:
        place = f"{path}.{key}" if path else str(key)
        if not isinstance(key, str | int) or OmegaConf.is_interpolation(node, key):
            continue
        if not isinstance(node[key], DictConfig):
            continue
        if "_target_" in node[key] or place == "data":
            yield place, node[key]
        yield from class_nodes(node[key], place)


def plain(node: DictConfig, name: str) -> object:
    """A value of a configuration, resolved, as plain Python."""
    value = node[name]
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def selected(cfg: DictConfig, key: str) -> object:
    """The value of a dotted key, as plain Python."""
    section, _, name = key.rpartition(".")
    return plain(cfg[section], name)


def typed(cfg: DictConfig, group: str) -> str:
    """The word that chose the file of a group, such as scheduler=plateau; GROUP if unknown."""
    chosen = OmegaConf.select(cfg, f"hydra.runtime.choices.{group}")  # a stored run has none
    return group if chosen is None else f"{group}={chosen}"
