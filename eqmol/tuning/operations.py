"""The tensor products of a built model: found, replaced, and watched at work.

They own no parameters, so a built model may get another algorithm in place.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from eqmol.errors import InputError
from eqmol.models.predictor import Predictor
from eqmol.ops import kernels
from eqmol.ops.contract import KernelMode, TensorProduct
from eqmol.ops.registry import algorithm, candidates, create

#: The backend that is chosen by measurement.
AUTO = "auto"
#: Methods that compute something, apart from ``geometry``.
COMPUTE = {
    "convolution": ("forward", "message"),
    "mixing": ("forward", "message"),
    "product": ("forward",),
    "power": ("forward",),
}


def default_backend(family: object) -> str:
    """What a model with backend ``auto`` is built with, and what is written into its file."""
    return "grid" if family == "gaunt" else "cg"


def operations(model: nn.Module) -> dict[str, TensorProduct]:
    """The tensor products of a model by name, e.g. ``backbone.layers.0.convolution``."""
    return {name: module for name, module in model.named_modules() if isinstance(module, TensorProduct)}


def backend_of(operation: TensorProduct) -> str:
    """The first backend that would compute the operation in this way, or the class of an algorithm that none stands for."""
    spec = operation.spec
    names = (name for name in candidates(spec) if algorithm(spec, name) is type(operation))
    return next(names, type(operation).__name__)


def is_reference(operation: TensorProduct, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the algorithm is the one that gives the spec its meaning, and runs no compiled code on such tensors."""
    is_first = type(operation) is algorithm(operation.spec, candidates(operation.spec)[0])
    return is_first and not kernels.apply(operation, device, dtype)


def alternative(operation: TensorProduct, backend: str, model: Predictor) -> TensorProduct:
    """The algorithm of a backend for an operation of a model, in its precision and on its device."""
    found = create(operation.spec, backend).to(next(model.parameters()).device, model.dtype)
    found.kernels = operation.kernels
    return found


def reference(operation: TensorProduct, model: Predictor) -> TensorProduct:
    """The first algorithm for the spec that can be made, without compiled code: a power of high degree has too many couplings for
    ``cg``.
    """
    for backend in candidates(operation.spec):
        try:
            found = alternative(operation, backend, model)
        except InputError:
            continue
        found.kernels = "off"
        return found
    return operation


def replace(model: Predictor, choices: Mapping[str, TensorProduct]) -> None:
    """Give operations, by name, other algorithms; weights and everything else stay."""
    for name, operation in choices.items():
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, operation)


def apply(model: Predictor, choices: Mapping[str, str]) -> None:
    """Give operations, by name, the algorithms of backends.

    Raises:
        InputError: the model has no such operation, or the backend cannot compute it.
    """
    found = operations(model)
    for name in choices.keys() - found.keys():
        raise InputError(f"the model has no tensor product {name!r} to be computed by backend {choices[name]}")
    replace(model, {name: alternative(found[name], backend, model) for name, backend in choices.items()})


def use_kernels(model: Predictor, mode: KernelMode | None) -> None:
    """Set whether a model's operations run compiled code; None: as ``$EQMOL_KERNELS`` says."""
    for operation in operations(model).values():
        operation.kernels = mode


def frozen(model: Predictor) -> Predictor:
    """A copy in evaluation mode whose weights are constants: what needs a gradient in it depends on the positions."""
    return deepcopy(model).requires_grad_(False).eval()


@dataclass(frozen=True)
class Geometry:
    """Stands for the result of ``geometry`` among recorded arguments."""


@dataclass
class Calls:
    """What an operation was called with.

    Attributes:
        calls: (method, arguments, keyword arguments), tensors detached, with :class:`Geometry` for the geometry.
        vectors: [E, 3] of the edges that the geometry was made from, or None if there was none.
    """

    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    vectors: Tensor | None = None


def leaf(tensor: Tensor) -> Tensor:
    """The same values as a new leaf, which needs a gradient if the tensor did."""
    return tensor.detach().requires_grad_(tensor.requires_grad)


def record(model: Predictor, graph: Any) -> dict[str, Calls]:
    """Evaluate a model and return what every operation was called with.

    Tensors that need a gradient depend on the positions; weights do not.
    """
    model = frozen(model)  # its operations are wrapped
    records = {name: Calls() for name in operations(model)}
    geometries: list[tuple[Any, Tensor]] = []  # results, and the vectors that they belong to
    busy: list[bool] = []

    def detached(value: Any, into: Calls) -> Any:
        for geometry, vectors in geometries:
            if value is geometry:
                into.vectors = vectors
                return Geometry()
        return tree_map_only(Tensor, leaf, value)

    def watched(original: Callable[..., Any], into: Calls, method: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if busy:  # one method may use another
                return original(*args, **kwargs)
            busy.append(True)
            try:
                result = original(*args, **kwargs)
            finally:
                busy.pop()
            if method == "geometry":
                geometries.append((result, leaf(args[0])))
            else:
                keywords = {key: detached(value, into) for key, value in kwargs.items()}
                into.calls.append((method, tuple(detached(value, into) for value in args), keywords))
            return result

        return call

    for name, operation in operations(model).items():
        for method in (*COMPUTE[operation.operation], "geometry"):
            original = getattr(operation, method, None)
            if original is not None:
                setattr(operation, method, watched(original, records[name], method))
    with torch.inference_mode(False), torch.enable_grad():
        model(graph)
    return records


def evaluate(operation: TensorProduct, entry: Calls, geometry: Any) -> list[Any]:
    """The results of all recorded calls by an algorithm for the same spec.

    Args:
        operation: the algorithm.
        entry: what to call it with.
        geometry: its own, from ``entry.vectors``.
    """
    results = []
    for method, args, kwargs in entry.calls:
        given = [geometry if isinstance(value, Geometry) else value for value in args]
        named = {key: geometry if isinstance(value, Geometry) else value for key, value in kwargs.items()}
        results.append(getattr(operation, method)(*given, **named))
    return results
