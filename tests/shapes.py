"""Checks the shapes in signatures, such as Float[Tensor, "K B L"], at every call."""

import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, Union, get_args, get_origin

from jaxtyping import AbstractArray

# parts of vae_lightning whose functions and methods are checked
CHECKED = ("distributions", "networks", "objectives", "training.module")


def fits(value: object, annotation: object) -> bool:
    """Whether the arrays of a value have the shapes and kinds of numbers that were declared."""
    if isinstance(annotation, type) and issubclass(annotation, AbstractArray):
        return isinstance(value, annotation)
    parts = get_args(annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        return value is None or any(fits(value, part) for part in parts)
    if get_origin(annotation) is tuple and isinstance(value, tuple) and len(parts) == len(value):
        return all(map(fits, value, parts))
    return True


def check_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a function: AssertionError unless its arguments and its result fit.

    A name, such as B, must stand for the same number throughout a call: jaxtyping remembers it.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*args: object, **kwargs: object) -> object:
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            annotation = signature.parameters[name].annotation
            assert fits(value, annotation), f"{function.__qualname__}: {name} is no {annotation}"
        result = function(*args, **kwargs)
        annotation = signature.return_annotation
        assert fits(result, annotation), f"{function.__qualname__}: returns no {annotation}"
        return result

    return checked


def checked_classes() -> Iterator[type]:
    """The classes whose methods are checked."""
    for name, module in list(sys.modules.items()):
        if name.startswith(tuple(f"vae_lightning.{part}" for part in CHECKED)):
            found = (cls for cls in vars(module).values() if inspect.isclass(cls))
            yield from (cls for cls in found if cls.__module__ == name)
