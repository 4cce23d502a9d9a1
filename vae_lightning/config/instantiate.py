"""Builds objects from a configuration.

A configuration may name only classes, and only of the type that the key requires; without
``trust=true``, only those in ``allowed.py``. All of it is checked before any of it is built.
"""

import importlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, get_type_hints

from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.loggers import Logger
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vae_lightning.checks.errors import ConfigError
from vae_lightning.checks.ranges import Option, described
from vae_lightning.config import allowed
from vae_lightning.objectives.annealing import Annealing

# key -> the base class that its class must have; every other key requires a Module
KINDS: dict[str, type] = {
    "dataset": object,
    "data": LightningDataModule,
    "optimizer": Optimizer,
    "scheduler": LRScheduler,
    "callbacks": Callback,
    "logger": Logger,
    "annealing": Annealing,
}

# keys whose parts have names that the user chooses
NAMED_PARTS = ("callbacks", "logger")


def is_within(name: str, packages: tuple[str, ...]) -> bool:
    """Returns whether a dotted name is one of the packages or lies in one of them."""
    return any(name == package or name.startswith(package + ".") for package in packages)


def find_class(target: str, kind: type, trust: bool) -> type:
    """Returns the class with a dotted name.

    Args:
        target: the dotted name, such as ``torch.optim.Adam``.
        kind: the required base class.
        trust: allow classes that ``allowed.py`` does not list.

    Raises ConfigError if there is no such class, if it does not derive from ``kind``, or if
    ``trust`` is false and it is not listed. The module of a class that is not listed is not
    imported. Errors that a module raises during its import are passed on.
    """
    module_name, _, class_name = str(target).rpartition(".")
    if not (trust or allowed.is_allowed(target)):
        if target in allowed.SENDING_CLASSES:
            raise ConfigError(
                f"_target_={target}: sends the results to a server; set trust=true if the run is"
                " yours"
            )
        if is_within(target, ("vae_lightning",)):
            raise ConfigError(f"_target_={target}: no such class, or not one for a configuration")
        raise ConfigError(
            f"_target_={target}: must be a class that vae_lightning/config/allowed.py lists;"
            " set trust=true to allow your own code"
        )
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        missing = isinstance(error, ModuleNotFoundError) and is_within(
            module_name, (error.name or "",)
        )
        if missing or not module_name:
            raise ConfigError(
                f"_target_={target}: no such class ({error}); modules are looked for in the current"
                " folder and in PYTHONPATH"
            ) from error
        raise
    found = getattr(module, class_name, None)
    if found is None:
        raise ConfigError(
            f"_target_={target}: no such class (module {module_name} has no {class_name})"
        )
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise ConfigError(
            f"_target_={target}: must be a class derived from {kind.__module__}.{kind.__name__}"
        )
    return found


def options_of(cls: type) -> dict[str, Option]:
    """The options that a class describes in the annotations of its arguments."""
    parameters = inspect.signature(cls).parameters
    if any(isinstance(parameter.annotation, str) for parameter in parameters.values()):
        hints = get_type_hints(cls.__init__, include_extras=True)
    else:
        hints = {name: parameter.annotation for name, parameter in parameters.items()}
    found = {name: described(hints.get(name)) for name in parameters}
    return {name: option for name, option in found.items() if option is not None}


@dataclass(frozen=True)
class Recipe:
    """A class with its arguments, all of which are checked; arguments may be recipes.

    ``is_partial`` makes ``build`` return a partial call, which takes the remaining arguments later.
    """

    cls: type
    arguments: dict[str, Any]
    is_partial: bool = False

    def build(self) -> Any:  # noqa: ANN401 - any class is possible
        """Builds the arguments, in their order, and then the object."""
        arguments = {name: built(value) for name, value in self.arguments.items()}
        return partial(self.cls, **arguments) if self.is_partial else self.cls(**arguments)


def built(value: Any) -> Any:  # noqa: ANN401 - any class is possible
    """Builds a value that ``resolve`` returned: a recipe, a mapping of values, or a plain value."""
    if isinstance(value, Recipe):
        return value.build()
    if isinstance(value, Mapping):
        return {name: built(part) for name, part in value.items()}
    return value


def resolve(node: object, key: str, trust: bool) -> Any:  # noqa: ANN401 - any class is possible
    """Checks a configuration node, recursively, and builds nothing.

    Mappings with ``_target_``, which names a class, become recipes; ``_partial_`` makes a recipe
    partial. Other mappings are searched, other values are returned unchanged.

    Raises ConfigError, with the key in the message, for a class that is not allowed and for
    arguments that the class does not accept.
    """
    if not isinstance(node, Mapping):
        return node
    arguments = {
        name: resolve(value, f"{key}.{name}", trust)
        for name, value in node.items()
        if name not in ("_target_", "_partial_")
    }
    if "_target_" not in node:
        return arguments
    arguments = {str(name): value for name, value in arguments.items()}
    first = key.split(".")[0]
    section = first if first in NAMED_PARTS else key.rpartition(".")[2]
    try:
        cls = find_class(node["_target_"], KINDS.get(section, nn.Module), trust)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from error
    refused = None if trust else allowed.refused_argument(node["_target_"], [*arguments])
    if refused is not None:
        raise ConfigError(
            f"{key}.{refused}: must not be given to {node['_target_']}; set trust=true to allow it"
        )
    signature = inspect.signature(cls)
    is_partial = bool(node.get("_partial_", False))
    try:
        (signature.bind_partial if is_partial else signature.bind)(**arguments)
    except TypeError as error:
        raise ConfigError(wrong_arguments(key, error, cls, is_partial)) from error
    return Recipe(cls, arguments, is_partial)


def wrong_arguments(key: str, error: TypeError, cls: type, is_partial: bool) -> str:
    """The message about arguments that a class does not take, or does not get."""
    unknown = re.search(r"unexpected keyword argument '(.*)'", str(error))
    if unknown is None:
        return f"{key}: {error}"
    all_names = [*inspect.signature(cls).parameters][is_partial:]  # the first one is given later
    taken = ", ".join(options_of(cls) or all_names) or "no arguments"
    return f"{key}.{unknown[1]}: must not be given, because {cls.__name__} takes {taken}"


def instantiate(node: object, key: str, trust: bool) -> Any:  # noqa: ANN401 - any class is possible
    """Builds the object that a configuration node describes; raises what ``resolve`` raises."""
    return built(resolve(node, key, trust))
