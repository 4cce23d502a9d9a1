"""From configuration to objects: only classes, only from known places, only of the kind that the place asks for."""

import importlib
import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

from lightning.pytorch import Callback, LightningDataModule
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset

from vae_lightning.annealing import Annealing

TRUSTED = ("vae_lightning", "torch.nn", "torch.optim", "torchvision.datasets", "lightning.pytorch.callbacks")
# key -> what its class must be; everything else is a Module
KINDS: dict[str, type] = {
    "dataset": Dataset,
    "data": LightningDataModule,
    "optimizer": Optimizer,
    "scheduler": LRScheduler,
    "callbacks": Callback,
    "annealing": Annealing,
}


def within(name: str, packages: tuple[str, ...]) -> bool:
    """Whether a dotted name lies in one of the packages."""
    return any(name == package or name.startswith(package + ".") for package in packages)


def find_class(target: str, kind: type, trust: bool) -> type:
    """The class that a dotted name stands for.

    Raises ValueError unless it is a class of the kind, and, without trust, one that a TRUSTED package defines; an
    untrusted module is refused before it is imported.
    """
    module_name, _, class_name = str(target).rpartition(".")
    if not (trust or within(module_name, TRUSTED)):
        raise ValueError(f"_target_={target}: must be in {', '.join(TRUSTED)}; trust=true if this code is your own")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"_target_={target}: no such class ({error})") from error
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise ValueError(f"_target_={target}: must be a class derived from {kind.__module__}.{kind.__name__}")
    if not (trust or within(found.__module__, TRUSTED)):
        raise ValueError(f"_target_={target}: is defined in {found.__module__}; trust=true if this code is your own")
    return found


def instantiate(node: object, key: str, trust: bool) -> Any:  # noqa: ANN401 - whatever the configuration names
    """The object that a plain node describes: ``_target_`` a class, ``_partial_`` leaves arguments open.

    Raises ValueError, with the key, for a class that is not allowed and for arguments that it does not take.
    """
    if not isinstance(node, Mapping):
        return node
    arguments = {
        name: instantiate(value, f"{key}.{name}", trust)
        for name, value in node.items()
        if name not in ("_target_", "_partial_")
    }
    if "_target_" not in node:
        return arguments
    place = key.split(".")[0] if key.startswith("callbacks.") else key.rpartition(".")[2]
    try:
        cls = find_class(node["_target_"], KINDS.get(place, nn.Module), trust)
        signature = inspect.signature(cls)
        if node.get("_partial_", False):
            signature.bind_partial(**arguments)
            return partial(cls, **arguments)
        signature.bind(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{key}: {error}") from error
    return cls(**arguments)  # what a constructor refuses, it says itself
