"""A function of tensors as one compiled graph on a CPU, without Python between its operations.

Python runs once, while PyTorch records the operations. The graph contains the numbers and choices
that Python used then; ``settings`` shows whether they have changed since.
"""

import copy
import logging
import pickle
import random
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.fx import GraphModule

log = logging.getLogger(__name__)

Module = TypeVar("Module", bound=nn.Module)
Graph = Callable[..., Sequence[Tensor]]
Builder = Callable[[GraphModule, Sequence[Tensor]], Graph]
UNBUILT = "PyTorch traced it but could not compile it, which requires a C++ compiler"
UNTRACED = (
    "PyTorch cannot trace the model or its objective, for example because it uses the number of the"
    " step (mmd) or changes its buffers (geco, an optimal scale)"
)
STATEFUL = (
    "the model or its objective changes itself, or uses the random generator of Python or NumPy"
)
INDUCTOR = {
    "cpp_wrapper": True,
    # without it, a test program is compiled for each instruction set, which takes four seconds
    "cpp.vec_isa_ok": True,
    "epilogue_fusion": False,  # the kernel of brgemm.py cannot be fused with what follows
    "cpp.use_decompose_tanh": True,  # twice as fast, exact up to one rounding of 1
    # converting images to channels-last and back costs more than convolutions gain from it
    "layout_optimization": False,
    # the fusion of longer expressions, as in prior=mixture, fails with an error
    "realize_opcount_threshold": 10,
    "fallback_random": True,  # a network draws the same random numbers as without a graph
}


class Refused(Exception):
    """There is no graph; the message says why."""


def inductor(graph: GraphModule, inputs: Sequence[Tensor]) -> Graph:
    """The operations as a C++ program, by TorchInductor."""
    import torch._inductor

    compiled = torch._inductor.compile(graph, list(inputs), options=INDUCTOR)
    assert callable(compiled)  # with other options, PyTorch returns files
    return compiled


def product_kernel() -> dict[OpOverload, Callable[..., Tensor]]:
    """The kernel for matrix products that replaces those of PyTorch in a graph; {} where it cannot.

    It is used in the compiled optimizer step and in the compiled log-likelihood of ``evaluate``, on
    processors with AVX-512 and versions of PyTorch that have its parts.
    """
    try:
        from vae_lightning.compile.brgemm import decompositions
    except (ImportError, AttributeError, TypeError, OSError, RuntimeError) as error:
        log.info("matrix products in graphs are PyTorch's own: %s", error)
        return {}
    return decompositions()


def build(
    make: Callable[[Module], Callable[..., Sequence[Tensor]]],
    module: Module,
    inputs: Sequence[Tensor],
    builder: Builder = inductor,
) -> Graph:
    """The function ``make(module)`` of tensors as a graph, for inputs with these shapes.

    The function runs once, on tensors without values and on a copy of the module. Raises Refused if
    it uses a value, changes the module, draws from a generator that is not PyTorch's, or cannot be
    compiled on this machine.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    other = twin(module)
    function = make(other)
    before = settings([*other.children()])
    python, numbers = random.getstate(), numpy.random.get_state()
    try:
        traced = make_fx(function, product_kernel(), tracing_mode="fake")(*inputs)
        same_python = random.getstate() == python
        same_numpy = pickle.dumps(numpy.random.get_state()) == pickle.dumps(numbers)
    except Exception as error:  # whatever a model's own code raises
        raise refusal(UNTRACED, error) from error
    finally:
        random.setstate(python)
        numpy.random.set_state(numbers)
    if not (same_python and same_numpy) or settings([*other.children()]) != before:
        raise Refused(STATEFUL)
    try:
        return builder(traced, inputs)
    except Exception as error:  # whatever a compiler raises
        raise refusal(UNBUILT, error) from error


def twin(module: Module) -> Module:
    """A copy of the module that shares no parts with it; raises Refused if that is impossible."""
    other = copy.copy(module)
    try:
        other.__dict__["_modules"] = copy.deepcopy(module._modules)
    except (RuntimeError, TypeError) as error:
        raise Refused(
            f"the model or its objective contains something that cannot be copied ({error})"
        ) from error
    return other


def refusal(reason: str, error: Exception) -> Refused:
    """The reason with the first line of the error."""
    line, *_ = str(error).strip().splitlines() or [""]
    return Refused(f"{reason} ({type(error).__name__}: {line})")


def settings(value: object, within: frozenset[int] = frozenset()) -> object:
    """The numbers, choices and identities of tensors in an object, to compare at another time."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return [(name, settings(item, within)) for name, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [settings(item, within) for item in value]
    if isinstance(value, (Tensor, type)) or not hasattr(value, "__dict__") or id(value) in within:
        return id(value)
    return [type(value), settings(vars(value), within | {id(value)})]
