"""Programs printed as Triton, for CUDA.

As in :mod:`eqmol.ops.kernels.cpp`, a program becomes straight-line code for one item, a node or an edge, and nothing of a user
enters the source. A warp takes WARP channels of one item, or, where items of a group are summed, of at most PIECE items of a group
one after another: sums are kept in registers, written once for every piece, and the pieces are summed in order. No two warps write
the same number and nothing is added by atomic operations, so that the same numbers come out of every run.

Checked under Triton's interpreter and by Triton's compiler, without a GPU: neither timed nor tuned on one.
"""

import hashlib
import inspect
import linecache
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property, lru_cache
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from eqmol.ops.kernels.expressions import SLOPE, Product, Program, Scaled, Sum, Variable

#: Channels of a warp, and items of a group that one warp sums.
WARP, PIECE = 32, 16
#: Where the rows of a tensor are: of the item, of its group, or of another node of an edge; harmonics of an edge, in place of a
#: matrix; or a sum over channels for every item.
Place = Literal["item", "group", "other", "harmonics", "channels"]

NODES: Mapping[str, Place] = {"c": "group", "w": "group"}
#: Edges grouped by their receivers, and by their senders.
BY_RECEIVER: Mapping[str, Place] = {
    "x": "other",
    "x0": "other",
    "v": "group",
    "m": "harmonics",
    "m0": "harmonics",
    "y": "channels",
}
BY_SENDER: Mapping[str, Place] = {**BY_RECEIVER, "x": "group", "x0": "group", "v": "other"}


class Grouped(Protocol):
    """Items of groups.

    Attributes:
        of: [N] the group of every item.
        sorted: gives the starts of the groups among the sorted items [G + 1], and these [N].
    """

    @property
    def of(self) -> Tensor: ...

    def sorted(self) -> tuple[Tensor, Tensor]: ...


class Pieces(NamedTuple):
    """Sorted items cut at the borders of groups and after every so many; some pieces are empty.

    Attributes:
        cuts: [S + 1] starts of the pieces among the sorted items, and their number.
        group: [S] of every piece.
        first: [G + 1] starts of the groups among the pieces.
    """

    cuts: Tensor
    group: Tensor
    first: Tensor


def cut(begin: Tensor, items: int) -> Pieces:
    """Pieces of at most PIECE items, given the starts of groups among them [G + 1]; without knowing the starts on the host."""
    cuts = torch.cat([begin, torch.arange(0, items, PIECE, device=begin.device)]).sort().values
    group = torch.searchsorted(begin, cuts[:-1], right=True) - 1
    return Pieces(cuts, group.clamp_(max=len(begin) - 2), torch.searchsorted(cuts, begin))


def source(program: Program, places: Mapping[str, Place], harmonics: Sequence[Sequence[tuple[int, float]]] = ()) -> str:
    """A kernel over items in groups.

    Its arguments: ``cuts`` [S + 1], ``order`` [N] of the sorted items, ``group`` [S], or [N] where nothing is summed, ``other``
    [N], then what the program reads and writes, and the numbers of items, channels and components of harmonics. Tensors are [...,
    rows, C], sums over a group have a row for every piece. Harmonics are [N, components], sums over channels [C / WARP, N,
    components].

    Args:
        program: what to compute for one item.
        places: of the tensors that do not belong to the item, results by the tensor that they are derivatives by.
        harmonics: of every row of a matrix, (component, value) of the sum that it is.
    """
    place = {name: places.get(name.removeprefix(SLOPE), "item") for name in (*program.reads, *program.writes)}
    sums = [name for name in program.writes if place[name] == "group"]
    depth = 2 if sums else 1
    lines = [
        "def add(a, b):",
        "    return a + b",
        "",
        f"def kernel(cuts, order, group, other, {', '.join(place)}, items, channels, components):",
        "    block = tl.program_id(1)",
        f"    channel = block * {WARP} + tl.arange(0, {WARP})",
        "    inside = channel < channels",
    ]
    if sums:
        lines += ["    piece = tl.program_id(0).to(tl.int64)", "    own = tl.load(group + piece)"]
        for name in sums:
            zero = f"tl.full([{WARP}], 0.0, {name}.dtype.element_ty)"
            lines += [f"    sum_{name}_{row} = {zero}" for row in range(program.sizes[name])]
        lines += ["    for at in range(tl.load(cuts + piece), tl.load(cuts + piece + 1)):"]
        lines += ["        item = tl.load(order + at)"]
    else:
        lines += ["    item = tl.program_id(0).to(tl.int64)", "    own = tl.load(group + item)"]
    indent = "    " * depth
    if "other" in place.values():
        lines.append(f"{indent}end = tl.load(other + item)")
    index = {"item": "item", "group": "own", "other": "end"}
    for name, where in place.items():
        if name not in sums and where in index:
            lines.append(f"{indent}at_{name} = {name} + {index[where]} * ({program.sizes[name]} * channels) + channel")
    lines += [indent + line for line in _body(program, place, harmonics)]
    for name in sums:
        lines.append(f"    at_{name} = {name} + piece * ({program.sizes[name]} * channels) + channel")
        for row in range(program.sizes[name]):
            lines.append(f"    tl.store(at_{name} + {row} * channels, sum_{name}_{row}, inside)")
    return "\n".join(lines) + "\n"


def _body(program: Program, place: Mapping[str, Place], harmonics: Sequence[Sequence[tuple[int, float]]]) -> list[str]:
    """What is done for one item."""
    results: dict[int, list[Variable]] = {}
    for variable, n in program.results.items():
        results.setdefault(n, []).append(variable)
    components = sorted({component for element in harmonics for component, _ in element})
    lines = []
    for name in program.reads:
        if place[name] == "harmonics":
            lines += [f"{name}_{k} = tl.load({name} + item * components + {k})" for k in components]
    for n, node in program.steps:
        if isinstance(node, Variable) and place[node.tensor] == "harmonics":
            terms = " + ".join(f"{value!r} * {node.tensor}_{k}" for k, value in harmonics[node.row])
            lines.append(f"t{n} = {terms}")
        elif isinstance(node, Variable):
            lines.append(f"t{n} = tl.load(at_{node.tensor} + {node.row} * channels, inside, 0.0)")
        elif isinstance(node, Product):
            lines.append(f"t{n} = t{node.left} * t{node.right}")
        elif isinstance(node, Sum):
            lines.append(f"t{n} = t{node.left} + t{node.right}")
        elif isinstance(node, Scaled):
            lines.append(f"t{n} = {node.factor!r} * t{node.node}")
        for name, row in results.get(n, ()):
            if place[name] == "group":
                lines.append(f"sum_{name}_{row} += t{n}")
            elif place[name] == "channels":
                lines.append(f"tl.store({name} + (block * items + item) * components + {row}, tl.reduce(t{n}, 0, add))")
            else:
                lines.append(f"tl.store(at_{name} + {row} * channels, t{n}, inside)")
    for name in program.writes:
        zero = f"tl.full([{WARP}], 0.0, {name}.dtype.element_ty)"
        for row in range(program.sizes[name] if place[name] == "item" else 0):
            if Variable(name, row) not in program.results:
                lines.append(f"tl.store(at_{name} + {row} * channels, {zero}, inside)")
    return lines


@lru_cache(maxsize=1)
def version() -> str | None:
    """Of Triton; None where it is not installed."""
    if find_spec("triton") is None:
        return None
    import triton

    return str(triton.__version__)


class Kernel:
    """A program in Triton, compiled for the current device when it is made.

    Args:
        program, places, harmonics: see :func:`source`.
        dtype: of its tensors.
    """

    def __init__(
        self,
        program: Program,
        places: Mapping[str, Place],
        harmonics: Sequence[Sequence[tuple[int, float]]],
        dtype: torch.dtype,
    ) -> None:
        self.program, self.dtype = program, dtype
        self.reads, self.writes = program.reads, program.writes
        self.place = {name: places.get(name.removeprefix(SLOPE), "item") for name in (*self.reads, *self.writes)}
        self.source = source(program, places, harmonics)
        self.function = _function(self.source)
        tensors = [torch.int64] * 4 + [dtype] * len(self.place)
        self.function.warmup(*tensors, 2, 2, 2, grid=(1, 1), num_warps=1)

    @cached_property
    def key(self) -> str:
        """SHA-256 of all that its rounding depends on, but the device."""
        return hashlib.sha256("\0".join([self.source, str(self.dtype), str(version())]).encode()).hexdigest()

    @property
    def is_summing(self) -> bool:
        """Whether items of a group are summed."""
        return any(self.place[name] == "group" for name in self.writes)

    def __call__(
        self, groups: Grouped, tensors: Mapping[str, Tensor], channels: int, other: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Run it.

        Args:
            groups: of the items.
            tensors: contiguous, all that the program reads.
            channels: C.
            other: [N] the other node of every edge.

        Returns:
            What the program writes: [N, rows, C], [G, rows, C], or [N, components] of sums over channels.
        """
        some, of = tensors[self.reads[0]], groups.of
        items = len(of)
        components = next((tensors[n].shape[1] for n, place in self.place.items() if place == "harmonics"), 0)
        pieces, order = None, of
        if self.is_summing:
            begin, order = groups.sorted()
            pieces = cut(begin, items)
        rows = items if pieces is None else len(pieces.group)
        blocks = -(-channels // WARP)
        written = {}
        for name in self.writes:
            if self.place[name] == "channels":
                written[name] = some.new_zeros(blocks, items, components)
            else:
                number = rows if self.place[name] == "group" else items
                written[name] = some.new_empty(number, self.program.sizes[name], channels)
        given = [*(tensors[name] for name in self.reads), *written.values()]
        assert all(tensor.is_contiguous() and tensor.dtype == self.dtype for tensor in given)
        indices = [of if pieces is None else pieces.cuts, order, of if pieces is None else pieces.group]
        indices.append(of if other is None else other)
        with torch.cuda.device(some.device) if some.is_cuda else nullcontext():
            self.function[rows, blocks](*indices, *given, items, channels, components, num_warps=1)
        for name, value in written.items():
            if self.place[name] == "channels":
                written[name] = value[0] if blocks == 1 else value.sum(0)
            elif self.place[name] == "group":
                assert pieces is not None
                total = torch.segment_reduce(value.flatten(1), "sum", offsets=pieces.first, axis=0, initial=0.0)
                written[name] = total.view(-1, *value.shape[1:])
        return written


class EdgeKernel:
    """A program of edges: derivatives by features of senders are summed in another order than the others.

    Args:
        kernels: for all others, by receiver, and for those, by sender, if they are wanted.
    """

    def __init__(self, kernels: Sequence[Kernel]) -> None:
        self.kernels = tuple(kernels)
        self.key = hashlib.sha256("".join(kernel.key for kernel in kernels).encode()).hexdigest()

    def __call__(
        self, senders: Grouped, receivers: Grouped, tensors: Mapping[str, Tensor], channels: int
    ) -> dict[str, Tensor]:
        """Run it on edges, see :meth:`Kernel.__call__`."""
        found: dict[str, Tensor] = {}
        for kernel, groups, other in zip(self.kernels, (receivers, senders), (senders, receivers), strict=False):
            found |= kernel(groups, tensors, channels, other.of)
        return found


def _function(text: str) -> Any:
    """The function of a source, for Triton, which reads the source again."""
    import triton
    import triton.language as tl

    file = f"<eqmol {hashlib.sha256(text.encode()).hexdigest()}>"
    linecache.cache[file] = len(text), None, text.splitlines(keepends=True), file
    names: dict[str, Any] = {"tl": tl, "__name__": __name__}
    exec(compile(text, file, "exec"), names)
    names["add"] = triton.jit(names["add"])
    arguments = list(inspect.signature(names["kernel"]).parameters)
    return triton.jit(names["kernel"], do_not_specialize=arguments, do_not_specialize_on_alignment=arguments)
