"""What an operation costs on this machine: arithmetic, memory and time of a forward and a backward pass."""

import statistics
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from eqmol.ops.contract import Convolution, RadialWeight, TensorProduct
from eqmol.ops.registry import create
from eqmol.ops.spec import Spec
from eqmol.so3.layout import dim

#: Edges per node of a convolution, as in a molecular crystal with a cutoff of about 4 Å.
NEIGHBORS = 20


@dataclass(frozen=True)
class Cost:
    """Cost of forward and backward, float32, one thread of the CPU, per edge (convolution) or node.

    Attributes:
        operations: arithmetic operations (two for a multiplication with an addition).
        moved: bytes that the kernels read and write.
        peak: bytes that lie in memory at once, on top of the inputs.
        seconds: processor time, median.
    """

    operations: float
    moved: float
    peak: float
    seconds: float


def measure_cost(spec: Spec, backend: str, channels: int, budget: float = 0.1, rows: int = 120) -> Cost:
    """Measure one operation.

    Args:
        spec, backend: the operation.
        channels: number of channels.
        budget: seconds of processor time to spend on timing; at least three passes are made.
        rows: number of edges of a convolution, of nodes otherwise.
    """
    step = _training_step(create(spec, backend), channels, rows)
    step()  # whatever is prepared at first use
    with _Counter() as counter:
        step()
    times: list[float] = []
    while len(times) < 3 or sum(times) < budget:
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    return Cost(counter.operations / rows, counter.moved / rows, counter.peak / rows, statistics.median(times) / rows)


def _training_step(op: TensorProduct, channels: int, rows: int) -> Callable[[], None]:
    """Forward, and the gradient with respect to features and weights."""
    spec, generator = op.spec, torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    op = op.float()
    nodes = max(rows // NEIGHBORS, 1) if isinstance(op, Convolution) else rows
    leaves = [normal(nodes, dim(spec.degree_in), channels)]
    if isinstance(op, Convolution):
        leaves += [normal(rows, 8), normal(8, spec.num_weights, channels)]
        geometry = op.geometry(normal(rows, 3))
        senders = torch.randint(nodes, (rows,), generator=generator)
        receivers = torch.arange(rows) * nodes // rows
        rest: tuple[Any, ...] = (senders, receivers, nodes)
    elif spec.operation == "product":
        leaves += [normal(nodes, dim(spec.degree_filter), channels), normal(spec.num_weights, channels)]
    else:
        leaves += [normal(1, spec.num_weights, channels)]
        rest = (torch.zeros(nodes, dtype=torch.int64),)
    for leaf in leaves:
        leaf.requires_grad_()
    upstream = normal(nodes, dim(spec.degree_out), channels)

    def step() -> None:
        if isinstance(op, Convolution):
            result = op(leaves[0], geometry, RadialWeight(leaves[1], leaves[2]), *rest)
        else:
            result = op(*leaves) if spec.operation == "product" else op(*leaves, *rest)
        torch.autograd.grad(result, leaves, upstream, allow_unused=True)

    return step


class _Counter(TorchDispatchMode):
    """Counts what every kernel does; products of matrices by PyTorch's table, other arithmetic one per element.

    Compiled code runs uncompiled under it.
    """

    _free = frozenset(
        {"arange", "clone", "copy_", "cat", "stack", "index_select", "zeros", "new_zeros", "zero_", "fill_"}
    )
    _sums = frozenset({"sum", "index_add", "index_add_", "scatter_add", "segment_reduce"})

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0.0
        self.moved = 0.0
        self.peak = 0.0
        self._held = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        packet = func.overloadpacket
        if func.is_view or not outputs:
            return result
        for tensor in outputs:
            self._hold(tensor)
        name = packet.__name__
        self.moved += sum(t.numel() * t.element_size() for t in (*inputs, *outputs))
        if packet in flop_registry:
            self.operations += flop_registry[packet](*args, **kwargs, out_val=result)
        elif name in self._sums:
            self.operations += max((t.numel() for t in inputs if t.is_floating_point()), default=0)
        elif name not in self._free:
            self.operations += sum(t.numel() for t in outputs if t.is_floating_point())
        return result

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self._held += size
        self.peak = max(self.peak, self._held)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._held -= size


def fitted_exponent(degrees: list[int], values: list[float]) -> float:
    """Slope of log value against log (degree + 1)."""
    return float(np.polyfit(np.log(np.array(degrees) + 1.0), np.log(values), 1)[0])
