"""A function of tensors as one compiled graph on a CPU, with no Python between its operations.

Python runs once, while PyTorch notes the operations. What it decided then is built in: numbers and choices in objects
must stay as they are, and their owners look at them again with ``settings``.
"""

import copy
import pickle
import random
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy
from torch import Tensor, nn
from torch.fx import GraphModule

Module = TypeVar("Module", bound=nn.Module)
Graph = Callable[..., Sequence[Tensor]]
Builder = Callable[[GraphModule, Sequence[Tensor]], Graph]
UNBUILT = "PyTorch traced it, but could not build it, which takes a C++ compiler"
UNTRACED = (
    "the model or its objective needs the number of the step (mmd), changes its buffers (geco, an optimal scale), or"
    " does something else that PyTorch cannot trace"
)
STATEFUL = "the model or its objective changes itself, or draws from the generator of Python or NumPy"
INDUCTOR = {
    "cpp_wrapper": True,
    "cpp.vec_isa_ok": True,  # else it compiles a program for each instruction set, to see whether it can: four seconds
    "epilogue_fusion": False,  # of what follows a product into it: vae_lightning.matmul takes nothing in
    "cpp.use_decompose_tanh": True,  # twice as fast, with an error of one rounding of 1
    "layout_optimization": False,  # turning images to channels-last and back costs convolutions more than it gains
    "realize_opcount_threshold": 10,  # of longer expressions, those of prior=mixture, its fusion makes an error
    "fallback_random": True,  # what a network draws itself, it draws as without a graph
}


class Refused(Exception):
    """There is no graph, for the reason given."""


def inductor(graph: GraphModule, inputs: Sequence[Tensor]) -> Graph:
    """The operations as a C++ program, by TorchInductor."""
    import torch._inductor

    return torch._inductor.compile(graph, list(inputs), options=INDUCTOR)


def build(
    make: Callable[[Module], Callable[..., Sequence[Tensor]]],
    module: Module,
    inputs: Sequence[Tensor],
    builder: Builder = inductor,
) -> Graph:
    """``make(module)``, a function of tensors alone, fast, for inputs of the shapes of these.

    It runs once, on tensors without values and on a twin of the module. Raises Refused where it looks at a value, where
    it changes the twin or draws from a generator that is not PyTorch's, and where the graph cannot be built here.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    from vae_lightning.matmul import decompositions

    other = twin(module)
    before, python, numbers = settings([*other.children()]), random.getstate(), numpy.random.get_state()
    try:
        traced = make_fx(make(other), decompositions(), tracing_mode="fake")(*inputs)
        drawn = random.getstate() != python or pickle.dumps(numpy.random.get_state()) != pickle.dumps(numbers)
    except Exception as error:  # whatever a model's own code raises
        raise refusal(UNTRACED, error) from error
    finally:
        random.setstate(python)
        numpy.random.set_state(numbers)
    if drawn or settings([*other.children()]) != before:
        raise Refused(STATEFUL)
    try:
        return builder(traced, inputs)
    except Exception as error:  # whatever a compiler raises
        raise refusal(UNBUILT, error) from error


def twin(module: Module) -> Module:
    """The module with other parts, the same as its own: what runs in them leaves nothing behind. Raises Refused."""
    other = copy.copy(module)
    try:
        other.__dict__["_modules"] = copy.deepcopy(module._modules)
    except (RuntimeError, TypeError) as error:
        raise Refused(f"the model or its objective holds what cannot be copied ({error})") from error
    return other


def refusal(reason: str, error: Exception) -> Refused:
    """The reason with the first line of the error."""
    line, *_ = str(error).strip().splitlines() or [""]
    return Refused(f"{reason} ({type(error).__name__}: {line})")


def settings(value: object, within: frozenset[int] = frozenset()) -> object:
    """Numbers and choices in an object, and which tensors, to be compared with what they are at another time."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return [(name, settings(item, within)) for name, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [settings(item, within) for item in value]
    if isinstance(value, (Tensor, type)) or not hasattr(value, "__dict__") or id(value) in within:
        return id(value)
    return [type(value), settings(vars(value), within | {id(value)})]
