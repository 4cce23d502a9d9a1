"""Which data sets have images of one known shape."""

import yaml

from vae_lightning.config.compose import CONF, choices


def data_with_shape() -> list[str]:
    """The data sets whose images always have the same shape, which their files in conf/ state."""
    return [name for name in choices("data") if has_shape(name)]


def has_shape(name: str) -> bool:
    """Whether the file of a data set, or one that it builds on, states the shape of the images."""
    node = yaml.safe_load((CONF / "data" / f"{name}.yaml").read_text())
    return node.get("image_shape") is not None or any(map(has_shape, node.get("defaults", [])))
