"""Checks the shapes in signatures, such as Float[Tensor, "K B L"], at every call."""

import functools
import inspect
import types
from collections.abc import Callable
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
