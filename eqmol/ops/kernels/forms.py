"""Tensor products by programs, compiled or evaluated by torch, as forms of :mod:`eqmol.ops.multilinear`.

Only some sets of derivatives are compiled: the smallest that has all that is asked for is run. What no set covers, derivatives of
third and higher order, is evaluated by torch.

Shapes: N nodes, E edges, C channels, K coefficients of a polynomial, W own weights, H hidden radial features, lm components.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from eqmol.ops.contract import KernelMode, Power, RadialWeight
from eqmol.ops.kernels import cpp, library, stretches, triton
from eqmol.ops.kernels.evaluate import evaluate
from eqmol.ops.kernels.expressions import SLOPE, Program
from eqmol.ops.kernels.library import Kernel, Language
from eqmol.ops.kernels.programs import edge_program, power_program, product_program
from eqmol.ops.kernels.sparse import edge_terms, power_terms
from eqmol.ops.multilinear import JointForm, Polynomial
from eqmol.ops.spec import Spec
from eqmol.so3.kept import kept
from eqmol.so3.layout import dim

#: Sets of derivatives that are compiled, by number of tangents: of energies, of forces, of their derivatives.
POWER_SETS: Mapping[int, Sequence[str]] = {0: ("v", "x", "xc"), 1: ("xcv",)}
PRODUCT_SETS = ("v", "xy", "xyw", "xywv")
EDGE_SETS = ("v", "wm", "xw", "xwm", "xwmv")
#: Exchanged arguments whose sums are compiled, for derivatives of forces: features of the first layer do not depend on positions.
JOINT_SETS = (frozenset("wm"), frozenset("wxm"))
#: Sets of convolutions with tables: of energies, of forces.
TABLE_SETS = (frozenset("v"), frozenset("xwm"))
#: What is made of exchanged arguments: of weights that are given, where positions have no second derivatives, and in general.
SLOPES, ALL_SLOPES = frozenset("xwv"), frozenset({"w", "w0", "x", "m", "v"})
#: Terms of a power beyond which it has no kernels, and statements beyond which a program is not compiled: the programs of all sets
#: of what is within the limits have fewer. The largest take seven seconds.
MAX_TERMS, MAX_STATEMENTS = 1600, 30_000
#: The same for Triton, which takes longer: of any set of a spec, else it has no kernels.
MAX_TRITON = 8_000
#: Nodes of a stretch, at least.
NODES = 256
#: Weights of edges that are made at a time: on the CPU they stay in the cache.
CHUNK, DEVICE_CHUNK = 1 << 17, 1 << 26
#: Weights of edges that are made at once, and kept for derivatives, if there are no more.
KEPT = 1 << 22


def smallest(sets: Sequence[str], wanted: Collection[str]) -> frozenset[str] | None:
    """The first set that has all that is wanted."""
    return next((frozenset(found) for found in sets if set(wanted) <= set(found)), None)


@lru_cache(maxsize=512)
def power_kernel(
    spec: Spec, wanted: frozenset[str], tangents: int, language: Language, dtype: torch.dtype, mode: KernelMode
) -> Kernel | triton.Kernel | None:
    """The compiled program, or None where it cannot be made."""
    if len(power_terms(spec).terms) > MAX_TERMS or not _fits(spec, language):
        return None
    return _node_kernel(power_program(spec, wanted, tangents), language, dtype, mode)


@lru_cache(maxsize=512)
def product_kernel(
    spec: Spec, wanted: frozenset[str], language: Language, dtype: torch.dtype, mode: KernelMode
) -> Kernel | triton.Kernel | None:
    """The compiled program, or None where it cannot be made."""
    if not _fits(spec, language):
        return None
    return _node_kernel(product_program(spec, wanted), language, dtype, mode)


def _node_kernel(
    program: Program, language: Language, dtype: torch.dtype, mode: KernelMode
) -> Kernel | triton.Kernel | None:
    if mode == "off" or cpp.statements(program) > MAX_STATEMENTS:
        return None
    if language == "triton":
        return library.load_triton(program, triton.NODES, (), dtype, mode)
    source = cpp.node_source(program, library.SCALARS[dtype], library.width(dtype))
    return library.load(source, program.reads, program.writes, mode)


@lru_cache(maxsize=512)
def edge_kernel(
    spec: Spec,
    wanted: frozenset[str],
    moving: frozenset[str],
    components: int,
    language: Language,
    dtype: torch.dtype,
    mode: KernelMode,
) -> Kernel | triton.EdgeKernel | None:
    """The compiled program, or None where it cannot be made."""
    if mode == "off" or not _fits(spec, language):
        return None
    harmonics = edge_terms(spec).harmonics
    if language == "triton":
        parts = [(wanted - {"x"}, triton.BY_RECEIVER)] + [(frozenset("x"), triton.BY_SENDER)] * ("x" in wanted)
        made = [
            library.load_triton(edge_program(spec, part, moving), places, harmonics, dtype, mode)
            for part, places in parts
        ]
        return None if None in made else triton.EdgeKernel([kernel for kernel in made if kernel is not None])
    program = edge_program(spec, wanted, moving)
    if cpp.statements(program) > MAX_STATEMENTS:
        return None
    source = cpp.edge_source(program, harmonics, components, library.SCALARS[dtype], library.width(dtype))
    return library.load(source, program.reads, program.writes, mode)


@lru_cache(maxsize=512)
def _fits(spec: Spec, language: Language) -> bool:
    """Whether the largest program of a spec is not too long for Triton."""
    if language != "triton":
        return True
    if spec.operation == "power":
        return len(power_program(spec, frozenset("xcv"), 1).steps) <= MAX_TRITON
    if spec.operation == "product":
        return len(product_program(spec, frozenset("xywv")).steps) <= MAX_TRITON
    return len(edge_program(spec, ALL_SLOPES - {"x"}, frozenset("wxm")).steps) <= MAX_TRITON


@lru_cache(maxsize=512)
def table_kernel(
    spec: Spec, wanted: frozenset[str], components: int, dtype: torch.dtype, mode: KernelMode
) -> Kernel | None:
    """The compiled program with weights from a table, or None where it cannot be made."""
    program = edge_program(spec, wanted)
    if mode == "off" or cpp.statements(program) > MAX_STATEMENTS:
        return None
    harmonics, scalar = edge_terms(spec).harmonics, library.SCALARS[dtype]
    source, reads, writes = cpp.table_source(program, harmonics, components, scalar, library.width(dtype))
    return library.load(source, reads, writes, mode)


def usual(
    spec: Spec,
    components: int,
    language: Language,
    dtype: torch.dtype,
    mode: KernelMode,
    learned: bool,
    training: bool,
    tables: bool,
) -> list[Kernel | triton.Kernel | triton.EdgeKernel]:
    """The kernels that a model needs for energies and forces, and for their derivatives in training.

    Args:
        spec: of an operation.
        components: of the harmonics of a convolution.
        language: of the kernels.
        dtype: of the tensors.
        mode: whether they may fail.
        learned: whether weights have derivatives.
        training: whether derivatives of forces are wanted, too.
        tables: whether convolutions read their weights from tables.

    Returns:
        Those that can be made. Others that an unusual model needs are made when they are.
    """
    made: list[Kernel | triton.Kernel | triton.EdgeKernel | None] = []
    how = language, dtype, mode
    if spec.operation == "power":
        # forces need no derivative by the coefficients
        derivatives = [("v", 0), ("x", 0), *([("xc", 0)] if learned else []), *([("xcv", 1)] if training else [])]
        made += [power_kernel(spec, frozenset(wanted), tangents, *how) for wanted, tangents in derivatives]
    elif spec.operation == "product":
        names = ["v", "xyw" if learned else "xy", "xywv"][: 2 + training]
        made += [product_kernel(spec, frozenset(wanted), *how) for wanted in names]
    elif tables and language == "c++":
        made += [table_kernel(spec, wanted, components, dtype, mode) for wanted in TABLE_SETS]
    else:
        # features of the first layer do not depend on positions
        moving = frozenset("xwm") if spec.degree_in else frozenset("wm")
        by_forces = frozenset("xwm") if learned and not training else moving
        sets = [frozenset("v"), by_forces, *([frozenset("xw")] if training else [])]
        made += [edge_kernel(spec, wanted, frozenset(), components, *how) for wanted in sets]
        if training:
            made.append(edge_kernel(spec, SLOPES, moving, components, *how))
    return [kernel for kernel in made if kernel is not None]


@lru_cache(maxsize=16)
def _in_order(nodes: int, parts: int, device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):
        begin = torch.tensor([nodes * i // parts for i in range(parts + 1)], device=device)
        return begin, torch.arange(nodes, device=device)


@kept
def _sorted(group: Tensor, number: int, parts: int) -> tuple[Tensor, Tensor]:
    check_indices("group", group, number)
    place = group
    if parts > 1:
        stretch = torch.arange(len(group), device=group.device).mul_(parts).div_(len(group), rounding_mode="floor")
        place = stretch.mul_(number).add_(group)
    begin = torch.zeros(parts * number + 1, dtype=torch.int64, device=group.device)
    torch.cumsum(torch.bincount(place, minlength=parts * number), 0, out=begin[1:])
    return begin, torch.argsort(place, stable=True)


class Groups:
    """Nodes and their groups.

    Args:
        group: [N] of every node; None if all are in one group.
        nodes: N.
        number: of groups.
        device: of the tensors.
    """

    def __init__(self, group: Tensor | None, nodes: int, number: int, device: torch.device) -> None:
        self.group, self.nodes, self.number, self.device = group, nodes, number, device

    @cached_property
    def of(self) -> Tensor:
        """[N] of every node.

        Raises:
            IndexError: a group that does not exist.
        """
        if self.group is None:
            return torch.zeros(self.nodes, dtype=torch.int64, device=self.device)
        check_indices("group", self.group, self.number)
        return self.group.contiguous()

    def sorted(self, parts: int = 1) -> tuple[Tensor, Tensor]:
        """Nodes by stretches, and in these by groups.

        Args:
            parts: S, number of stretches of nodes.

        Returns:
            Starts of the groups of all stretches among the sorted nodes [S G + 1], and these [N].

        Raises:
            IndexError: a group that does not exist.
        """
        if self.group is None:
            return _in_order(self.nodes, parts, self.device)
        return _sorted(self.group, self.number, parts)

    @property
    def stretches(self) -> int:
        """Of nodes that threads take one after another; a group each is too many."""
        return max(1, min(self.nodes // max(NODES, self.number), stretches.MOST))

    def in_stretches(self) -> tuple[Tensor, Tensor]:
        """:meth:`sorted` by :attr:`stretches`."""
        return self.sorted(self.stretches)

    def spread(self, values: Tensor) -> Tensor:
        """[G, ...] -> [N or 1, ...]."""
        return values if self.group is None else values[self.group]

    def collect(self, values: Tensor) -> Tensor:
        """Sums over the nodes of every group, [N, ...] -> [G, ...]."""
        if self.group is None:
            return values.sum(0, keepdim=True)
        return values.new_zeros(self.number, *values.shape[1:]).index_add(0, self.group, values)


def parts_of(nodes: tuple[Tensor, Tensor], groups: int) -> range:
    """Parts of the work on sorted nodes that different threads may do: all groups of a stretch."""
    return range(0, nodes[0].shape[0], groups)


class PowerForm(Polynomial):
    """Σ_n v · polynomial(x). Arguments: x [N, lm_in, C], c [G, K, C], v [N, lm_out, C] and tangents like x.

    Args:
        spec: of a power.
        groups: of the nodes.
        mode: whether kernels are used.
    """

    def __init__(self, spec: Spec, groups: Groups, mode: KernelMode) -> None:
        self.spec, self.groups, self.mode = spec, groups, mode

    def partials(self, slots: Sequence[int], arguments: Sequence[Tensor | None]) -> list[Tensor]:
        names = ["x", "c", "v", *(f"x{i}" for i in range(len(arguments) - 3))]
        given = {name: a.contiguous() for name, a in zip(names, arguments, strict=True) if a is not None}
        wanted = frozenset(names[slot] for slot in slots)
        found = smallest(POWER_SETS.get(len(names) - 3, ()), wanted) if self.mode != "off" else None
        x = given["x"]
        how = library.language(x.device), x.dtype, self.mode
        kernel = None if found is None else power_kernel(self.spec, found, len(names) - 3, *how)
        if kernel is not None and all(name in given for name in kernel.reads):
            rows = {"v": dim(self.spec.degree_out), **dict.fromkeys(names[3:], x.shape[1]), "x": x.shape[1]}
            result = _on_nodes(kernel, self.groups, given, {**rows, "c": given["c"].shape[1]})
        else:
            result = _by_torch(power_program(self.spec, wanted, len(names) - 3), given, "c", self.groups)
        return [result[SLOPE + names[slot]] for slot in slots]


class ConstantPower:
    """A power whose weights are constants, and its derivative.

    Args:
        kernels: of the values, and of the derivative by the field.
        weight: own weights [G, W, C].
        spec: of the power.
    """

    def __init__(self, kernels: tuple[Kernel, Kernel], weight: Tensor, spec: Spec) -> None:
        self._kernels, self._rows, self._groups = kernels, dim(spec.degree_out), len(weight)
        self._coefficients = coefficients(weight.detach(), spec)

    @classmethod
    def of(cls, op: Power, weight: Tensor, mode: KernelMode) -> "ConstantPower | None":
        """That of an operation that may run compiled code, or None where there is no kernel."""
        how = library.language(weight.device), weight.dtype, mode
        values, slopes = (power_kernel(op.spec, frozenset(wanted), 0, *how) for wanted in "vx")
        if not isinstance(values, Kernel) or not isinstance(slopes, Kernel):
            return None
        return cls((values, slopes), weight, op.spec)

    def __call__(self, x: Tensor, nodes: tuple[Tensor, Tensor]) -> Tensor:
        """[N, lm_in, C] -> [N, lm_out, C], given :meth:`Groups.in_stretches`."""
        result = x.new_empty(x.shape[0], self._rows, x.shape[2])
        given = {"x": x, "c": self._coefficients, SLOPE + "v": result}
        self._kernels[0]((x.shape[2], self._groups), nodes, given, x, parts_of(nodes, self._groups))
        return result

    def back(self, x: Tensor, v: Tensor, nodes: tuple[Tensor, Tensor]) -> Tensor:
        """The derivative of Σ v · result by the field."""
        result = torch.empty_like(x)
        given = {"x": x, "c": self._coefficients, "v": v, SLOPE + "x": result}
        self._kernels[1]((x.shape[2], self._groups), nodes, given, x, parts_of(nodes, self._groups))
        return result


class ProductForm:
    """Σ_n v · product(x, y). Arguments: x [N, lm_in, C], y [N, lm_filter, C], v [N, lm_out, C], w [1 or N, W, C].

    Args:
        spec: of a product.
        groups: of the nodes, one or each a group of its own, as w has them.
        mode: whether kernels are used.
    """

    NAMES = "x", "y", "v", "w"

    def __init__(self, spec: Spec, groups: Groups, mode: KernelMode) -> None:
        self.spec, self.groups, self.mode = spec, groups, mode

    def partials(self, slots: Sequence[int], arguments: Sequence[Tensor | None]) -> list[Tensor]:
        given = {name: a.contiguous() for name, a in zip(self.NAMES, arguments, strict=True) if a is not None}
        wanted = frozenset(self.NAMES[slot] for slot in slots)
        found = smallest(PRODUCT_SETS, wanted) if self.mode != "off" else None
        x = given["x"] if "x" in given else given["y"]
        kernel = (
            None if found is None else product_kernel(self.spec, found, library.language(x.device), x.dtype, self.mode)
        )
        if kernel is not None and all(name in given for name in kernel.reads):
            degrees = {"x": self.spec.degree_in, "y": self.spec.degree_filter, "v": self.spec.degree_out}
            rows = {name: dim(l) for name, l in degrees.items()}
            result = _on_nodes(kernel, self.groups, given, {**rows, "w": self.spec.num_weights})
        else:
            result = _by_torch(product_program(self.spec, wanted), given, "w", self.groups)
        return [result[SLOPE + self.NAMES[slot]] for slot in slots]


def _on_nodes(
    kernel: Kernel | triton.Kernel, groups: Groups, given: Mapping[str, Tensor], rows: Mapping[str, int]
) -> dict[str, Tensor]:
    """What a kernel writes, [N, rows, C], or [G, rows, C] of coefficients and weights."""
    some = next(iter(given.values()))
    channels = some.shape[-1]
    if isinstance(kernel, triton.Kernel):
        return kernel(groups, given, channels)
    shapes = {
        SLOPE + name: (groups.number if name in cpp.GROUP_TENSORS else groups.nodes, number, channels)
        for name, number in rows.items()
        if SLOPE + name in kernel.writes
    }
    sums = {SLOPE + name for name in cpp.GROUP_TENSORS}.intersection(shapes)
    result = {n: some.new_zeros(shape) if n in sums else some.new_empty(shape) for n, shape in shapes.items()}
    parts = groups.stretches
    bounds: Sequence[int] = [groups.number * part for part in range(parts + 1)]
    if sums:  # over all nodes of a group
        blocks = -(-channels // library.width(some.dtype))
        parts, bounds = 1, (0, blocks) if parts == 1 else range(blocks + 1)
    kernel((channels, groups.number), groups.sorted(parts), {**given, **result}, some, bounds)
    return result


def _by_torch(program: Program, given: Mapping[str, Tensor], grouped: str, groups: Groups) -> dict[str, Tensor]:
    result = evaluate(program, {name: groups.spread(t) if name == grouped else t for name, t in given.items()})
    if SLOPE + grouped in result:
        result[SLOPE + grouped] = groups.collect(result[SLOPE + grouped])
    return result


class EdgeForm(JointForm):
    """Σ_e v of the receiver · message. Arguments: hidden [E, H], matrix [H, W, C], x [N, lm_in, C], harmonics [E, lm], v
    [receivers, K · lm_out, C]; or the weights [E, W, C] in place of hidden, and None in place of the matrix.

    Messages are added to the results as they are made. With a matrix, weights and their slopes are made a chunk of edges at a time.

    Args:
        spec: of a convolution.
        senders, receivers: [E].
        shape: of the result.
        mode: whether kernels are used.
        shared: s; rows of hidden belong to 2^s edges side by side each.
    """

    NAMES = "w", "w", "x", "m", "v"

    def __init__(
        self,
        spec: Spec,
        senders: Tensor,
        receivers: Tensor,
        shape: tuple[int, int, int],
        mode: KernelMode,
        shared: int = 0,
    ) -> None:
        self.spec, self.shape, self.mode, self.shared = spec, shape, mode, shared
        self.senders, self.receivers = senders.contiguous(), receivers.contiguous()

    def partials(self, slots: Sequence[int], arguments: Sequence[Tensor | None]) -> list[Tensor]:
        hidden, matrix, x, y, v = _contiguous(arguments)
        wanted = frozenset(self.NAMES[slot] for slot in slots)
        may_run = self.mode != "off" and (v is not None or wanted == {"v"})
        found = smallest(EDGE_SETS, wanted) if may_run else None
        kernel = None if found is None else edge_kernel(self.spec, found, frozenset(), y.shape[1], *self._how(x))
        run = _EdgeRun(self, kernel or edge_program(self.spec, wanted), x, y, {} if v is None else {"v": v})
        if matrix is None:
            slope = run.add(slice(0, len(hidden)), {"w": hidden, "m": y})["w"]
            return [run.node(slot) if slot > 1 else slope for slot in slots]
        flat = matrix.flatten(1)
        result = [hidden.new_empty(hidden.shape), torch.zeros_like(flat)]
        for rows, weight in self._weights(hidden, matrix):
            slope = run.add(rows, {"w": weight, "m": y})["w"].flatten(1)
            if 0 in slots:
                torch.mm(slope, flat.T, out=result[0][rows])
            if 1 in slots:
                result[1].addmm_(hidden[rows].T, slope)
        return [run.node(slot) if slot > 1 else result[slot].view_as((hidden, matrix)[slot]) for slot in slots]

    def joint_partials(
        self, slots: Sequence[int], arguments: Sequence[Tensor | None], exchanged: Mapping[int, Tensor]
    ) -> list[Tensor] | None:
        moving = frozenset(self.NAMES[slot] for slot in exchanged)
        if self.mode == "off" or moving not in JOINT_SETS or arguments[4] is None:
            return None
        hidden, matrix, x, y, v = _contiguous(arguments)
        is_less = matrix is None and SLOPES.issuperset(self.NAMES[slot] for slot in slots)
        kernel = edge_kernel(self.spec, SLOPES if is_less else ALL_SLOPES, moving, y.shape[1], *self._how(x))
        if kernel is None:
            return None
        along = {slot: tangent.contiguous() for slot, tangent in exchanged.items()}
        run = _EdgeRun(self, kernel, x, y, {"v": v, **({"x0": along[2]} if 2 in along else {})})
        tangents = {"m0": along[3]} if 3 in along else {}
        if matrix is None:
            slope = run.add(slice(0, len(hidden)), {"w": hidden, "w0": along[0], "m": y, **tangents})["w"]
            return [run.node(slot) if slot > 1 else slope for slot in slots]
        flat = matrix.flatten(1)
        result = [torch.empty_like(hidden), torch.zeros_like(flat)]
        for rows, weight in self._weights(hidden, matrix):
            # the weights move by Δhidden · matrix + hidden · Δmatrix
            moved = along[0][rows] @ flat if 0 in along else hidden.new_zeros(len(weight), flat.shape[1])
            if 1 in along:
                moved.addmm_(hidden[rows], along[1].flatten(1))
            slopes = run.add(rows, {"w": weight, "w0": moved.view_as(weight), "m": y, **tangents})
            slope, moved_slope = (slopes[name].flatten(1) for name in ("w", "w0"))
            if 0 in slots:
                torch.mm(slope, flat.T, out=result[0][rows])
                if 1 in along:
                    result[0][rows].addmm_(moved_slope, along[1].flatten(1).T)
            if 1 in slots:
                result[1].addmm_(hidden[rows].T, slope)
                if 0 in along:
                    result[1].addmm_(along[0][rows].T, moved_slope)
        return [run.node(slot) if slot > 1 else result[slot].view_as((hidden, matrix)[slot]) for slot in slots]

    def _how(self, x: Tensor) -> tuple[Language, torch.dtype, KernelMode]:
        return library.language(x.device), x.dtype, self.mode

    def _weights(self, hidden: Tensor, matrix: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Chunks of edges and their weights [e, W, C]."""
        chunk = CHUNK if hidden.device.type == "cpu" else DEVICE_CHUNK
        for rows in _chunks(len(hidden), max(1, chunk // max(matrix[0].numel(), 1))):
            yield rows, RadialWeight(hidden[rows], matrix).dense()


class _EdgeRun:
    """One evaluation of a form over edges: sums over nodes as they grow, and what every chunk gives.

    Args:
        form: whose.
        how: a kernel, or a program that torch evaluates.
        x, y: features of nodes and harmonics of all edges.
        nodes: other tensors of nodes.
    """

    def __init__(
        self,
        form: EdgeForm,
        how: Kernel | triton.EdgeKernel | Program,
        x: Tensor,
        y: Tensor,
        nodes: Mapping[str, Tensor],
    ) -> None:
        check_indices("sender", form.senders, len(x))
        check_indices("receiver", form.receivers, form.shape[0])
        self.form, self.how, self.nodes = form, how, {"x": x, **nodes}
        shapes = {SLOPE + "x": x.shape, SLOPE + "v": form.shape}
        written = how.writes if isinstance(how, Kernel) else shapes
        self.sums = {name: x.new_zeros(shape) for name, shape in shapes.items() if name in written}
        self.harmonics = torch.empty_like(y)

    def node(self, slot: int) -> Tensor:
        """The derivative by features, harmonics or the cotangent."""
        return self.harmonics if slot == 3 else self.sums[SLOPE + EdgeForm.NAMES[slot]]

    def add(self, rows: slice, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Add the edges of a chunk of rows, given its weights, the harmonics of all edges, and their tangents.

        Returns:
            Derivatives by the weights and their tangents, [e, W, C]; of no use where they are not wanted.
        """
        own = slice(rows.start << self.form.shared, rows.stop << self.form.shared)
        edges = self.form.senders, self.form.receivers
        if own != slice(0, len(edges[0])):
            edges = edges[0][own], edges[1][own]
        run = self._by_torch if isinstance(self.how, Program) else self._compiled
        if isinstance(self.how, triton.EdgeKernel):
            run = self._by_triton
        tensors = {name: tensor[own] if name.startswith("m") else tensor for name, tensor in tensors.items()}
        slopes, by_harmonics = run(edges, tensors)
        if len(by_harmonics) == len(self.harmonics):
            self.harmonics = by_harmonics
        else:
            self.harmonics[own] = by_harmonics
        return slopes

    def _compiled(
        self, edges: tuple[Tensor, Tensor], tensors: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        assert isinstance(self.how, Kernel)
        weight, y = tensors["w"], tensors["m"]
        by_y = torch.empty_like(y) if SLOPE + "y" in self.how.writes else torch.zeros_like(y)
        slopes = {n: torch.zeros_like(weight) if SLOPE + n in self.how.writes else weight for n in ("w", "w0")}
        written = {SLOPE + "y": by_y, **{SLOPE + name: slope for name, slope in slopes.items()}, **self.sums}
        sizes = weight.shape[2], len(self.nodes["x"]), 1, self.form.shared
        self.how(sizes, (stretches.whole(len(y)), *edges), {**self.nodes, **tensors, **written}, y, (0, 1))
        return slopes, by_y

    def _by_triton(
        self, edges: tuple[Tensor, Tensor], tensors: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        assert isinstance(self.how, triton.EdgeKernel)
        assert not self.form.shared
        weight, y = tensors["w"], tensors["m"]
        numbers = len(self.nodes["x"]), self.form.shape[0]
        senders, receivers = (Groups(of, len(of), n, y.device) for of, n in zip(edges, numbers, strict=True))
        found = self.how(senders, receivers, {**self.nodes, **tensors}, weight.shape[2])
        for name in self.sums:
            if name in found:
                self.sums[name] += found[name]
        slopes = {name: found.get(SLOPE + name, weight) for name in ("w", "w0")}
        return slopes, found[SLOPE + "y"] if SLOPE + "y" in found else torch.zeros_like(y)

    def _by_torch(
        self, edges: tuple[Tensor, Tensor], tensors: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        assert isinstance(self.how, Program)
        y = tensors["m"]
        table = harmonics_table(self.form.spec, y.shape[1], y.dtype, y.device)
        gathered = {name: tensor[edges[name == "v"]] for name, tensor in self.nodes.items()}
        copies = 1 << self.form.shared
        tensors = {**tensors, "w": tensors["w"].repeat_interleave(copies, 0)}
        result = evaluate(self.how, {**tensors, **gathered, "m": (y @ table).unsqueeze(-1)})
        for name, index in zip((SLOPE + "x", SLOPE + "v"), edges, strict=True):
            if name in result:
                self.sums[name].index_add_(0, index, result[name])
        slope = torch.zeros_like(y)
        if SLOPE + "y" in result:
            slope[:, : self.how.sizes[SLOPE + "y"]] = result[SLOPE + "y"].sum(-1)
        weight = result.get(SLOPE + "w", tensors["w"])
        return {"w": weight.unflatten(0, (-1, copies)).sum(1)}, slope


def _contiguous(arguments: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """The arguments of an edge form; the cotangent may be None."""
    return tuple(a if a is None else a.contiguous() for a in arguments)  # type: ignore[misc]


def _chunks(number: int, size: int) -> Iterator[slice]:
    return (slice(first, min(first + size, number)) for first in range(0, number, size))


def check_indices(what: str, index: Tensor, number: int) -> None:
    """
    Raises:
        IndexError: an index is out of range.
    """
    low, high = _bounds(index)
    if low < 0 or high >= number:
        raise IndexError(f"{what} {low if low < 0 else high} is out of range: there are {number}")


@kept
def _bounds(index: Tensor) -> tuple[int, int]:
    """Smallest and largest index; those of none are in any range."""
    numbers = index.cpu().numpy()
    return (int(numbers.min()), int(numbers.max())) if len(numbers) else (0, -1)


@kept
def coefficients(weight: Tensor, spec: Spec) -> Tensor:
    """Of a power's polynomials [G, K, C], from own weights [G, W, C]."""
    return torch.bmm(_coefficient_table(spec, weight.dtype, weight.device).expand(len(weight), -1, -1), weight)


@lru_cache(maxsize=64)
def _coefficient_table(spec: Spec, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Own weights -> coefficients of a power, [K, W]."""
    with torch.inference_mode(False):
        return torch.tensor(power_terms(spec).coefficients.T, dtype=dtype, device=device).contiguous()


@lru_cache(maxsize=64)
def harmonics_table(spec: Spec, components: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Harmonics -> elements of an edge's matrix, [components, M]."""
    harmonics = edge_terms(spec).harmonics
    with torch.inference_mode(False):
        table = torch.zeros(components, len(harmonics), dtype=dtype)
        for column, element in enumerate(harmonics):
            for component, value in element:
                table[component, column] = value
        return table.to(device)
