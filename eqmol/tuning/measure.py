"""Times of the algorithms for one operation on the inputs that it really gets."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from eqmol.ops.contract import EdgeProduct, TensorProduct
from eqmol.tuning.operations import Calls, evaluate, leaf

#: Forward; forward and backward; forward, backward and backward of both.
Mode = Literal["energy", "forces", "training"]

ROUNDS = 15
HOPELESS = 3.0  #: times the fastest: not measured again


class Problem:
    """An operation of a model, ready to be run by one algorithm.

    Args:
        operation: the algorithm, in the precision and on the device of the recorded inputs.
        entry: what the operation gets; tensors that need a gradient depend on the positions.
        mode: what is done with it.
    """

    def __init__(self, operation: TensorProduct, entry: Calls, mode: Mode) -> None:
        self.mode = mode
        self.entry = entry
        self.operation = operation
        self.vectors = None if entry.vectors is None else leaf(entry.vectors)
        self.inner: Any = None  # the geometry as given to the operation, cut off from the vectors
        self.geometry_key = ""
        if isinstance(operation, EdgeProduct) and self.vectors is not None:
            self.geometry_key = repr(operation.geometry_key)
            with torch.set_grad_enabled(mode != "energy"):
                self.inner = tree_map_only(Tensor, leaf, operation.geometry(self.vectors))

    def run(self) -> None:
        """The operation, given its geometry."""
        inputs = tensors((self.entry.calls, self.inner))
        positional = [tensor for tensor in inputs if tensor.requires_grad]
        constant = [tensor for tensor in inputs if not tensor.requires_grad]
        differentiate(partial(evaluate, self.operation, self.entry, self.inner), positional, constant, self.mode)

    def run_geometry(self) -> None:
        """The geometry alone."""
        assert isinstance(self.operation, EdgeProduct)
        assert self.vectors is not None
        positional = [self.vectors] if self.vectors.requires_grad else []
        differentiate(partial(self.operation.geometry, self.vectors), positional, [], self.mode)


def differentiate(function: Callable[[], Any], positional: list[Tensor], constant: list[Tensor], mode: Mode) -> None:
    """Do to a function what an evaluation with forces, or a training step on forces, does to it.

    Args:
        function: of the tensors in the two lists.
        positional: depend on the positions.
        constant: depend at most on the weights.
        mode: "training" differentiates the gradient with respect to everything, as a loss of forces does.
    """
    if mode == "energy":
        with torch.no_grad():
            function()
        return
    weights = constant if mode == "training" else []
    with torch.enable_grad(), needing_gradients(weights):
        outputs = [output for output in tensors(function()) if output.requires_grad]
        cotangents = [torch.ones_like(output, requires_grad=mode == "training") for output in outputs]
        slopes: tuple[Tensor | None, ...] = ()
        if positional and outputs:
            slopes = torch.autograd.grad(
                outputs, positional, cotangents, create_graph=mode == "training", allow_unused=True
            )
        if mode == "training":
            ends = [*outputs, *(slope for slope in slopes if slope is not None and slope.requires_grad)]
            ones = [torch.ones_like(end) for end in ends]
            if ends:  # the geometry of a model without forces depends on nothing that is trained
                torch.autograd.grad(ends, [*positional, *weights, *cotangents], ones, allow_unused=True)


@contextmanager
def needing_gradients(weights: list[Tensor]) -> Iterator[None]:
    """Weights need gradients inside the block."""
    for weight in weights:
        weight.requires_grad_()
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(False)


def tensors(tree: Any) -> list[Tensor]:
    """All floating-point tensors of nested containers, each once."""
    found = [item for item in tree_leaves(tree) if isinstance(item, Tensor) and item.is_floating_point()]
    return list({id(item): item for item in found}.values())


def interleaved(calls: Mapping[str, Callable[[], None]], device: torch.device, seconds: float) -> dict[str, float]:
    """The shortest of several runs of each call, in seconds.

    Calls take turns, so that a disturbance meets all. A call that takes three times as long as the fastest is not
    repeated.

    Args:
        calls: by name; each is run once beforehand, which fills its tables.
        device: waited for.
        seconds: after which no further round begins.
    """
    for call in calls.values():
        call()
    times = dict.fromkeys(calls, float("inf"))
    left, begin = dict(calls), time.perf_counter()
    for _ in range(ROUNDS):
        for name, call in left.items():
            times[name] = min(times[name], _timed(call, device))
        best = min(times.values())
        left = {name: call for name, call in left.items() if times[name] < HOPELESS * best}
        if time.perf_counter() - begin > seconds:
            break
    return times


def _timed(call: Callable[[], None], device: torch.device) -> float:
    # the processor time of one thread does not count what other programs do meanwhile
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    _wait(device)
    begin = clock()
    call()
    _wait(device)
    return clock() - begin


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
