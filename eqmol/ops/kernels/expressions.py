"""Straight-line expressions: sums and products of variables and constants, their derivatives, and programs made of them.

Nodes are numbers into a list, in which operands come before what is made of them. Equal expressions are one node, so that common
subexpressions are computed once. Zero is None: whatever is multiplied by it never exists.

A variable is a row of a tensor; the channels (and nodes or edges) of the row are the printer's business.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple


class Variable(NamedTuple):
    """Row of a tensor."""

    tensor: str
    row: int


class Product(NamedTuple):
    """Of two nodes."""

    left: int
    right: int


class Sum(NamedTuple):
    """Of two nodes."""

    left: int
    right: int


class Scaled(NamedTuple):
    """A node times a constant."""

    factor: float
    node: int


class One(NamedTuple):
    """The number 1: where derivatives begin. It is never part of a program."""


Node = Variable | Product | Sum | Scaled | One


@dataclass
class Expressions:
    """Nodes made so far."""

    nodes: list[Node] = field(default_factory=list)
    _known: dict[tuple[type, Node], int] = field(default_factory=dict)

    def variable(self, tensor: str, row: int) -> int:
        return self._node(Variable(tensor, row))

    def multiply(self, a: int | None, b: int | None) -> int | None:
        if a is None or b is None:
            return None
        for number, other in ((a, b), (b, a)):
            constant = self._constant(number)
            if constant is not None:
                return self.scale(constant, other)
        return self._node(Product(min(a, b), max(a, b)))

    def add(self, a: int | None, b: int | None) -> int | None:
        if a is None or b is None:
            return b if a is None else a
        return self._node(Sum(a, b))

    def scale(self, factor: float, a: int | None) -> int | None:
        if a is None or factor == 0.0:
            return None
        return a if factor == 1.0 else self._node(Scaled(factor, a))

    def gradients(self, root: int | None, tensors: Collection[str]) -> dict[Variable, int]:
        """Derivatives of a node with respect to all variables of some tensors that it depends on, by reverse accumulation."""
        if root is None:
            return {}
        below = self.below([root])
        moving = set()
        for n in below:
            node = self.nodes[n]
            if node.tensor in tensors if isinstance(node, Variable) else any(i in moving for i in _operands(node)):
                moving.add(n)
        slopes: dict[int, int | None] = {root: self._node(One())}
        found: dict[Variable, int] = {}
        for n in reversed(below):
            if n not in moving:
                continue
            node, slope = self.nodes[n], slopes.pop(n)
            if isinstance(node, Variable):
                assert slope is not None
                found[node] = slope
            elif isinstance(node, Product):
                self._add_to(slopes, moving, node.left, lambda s=slope, o=node.right: self.multiply(s, o))
                self._add_to(slopes, moving, node.right, lambda s=slope, o=node.left: self.multiply(s, o))
            elif isinstance(node, Sum):
                self._add_to(slopes, moving, node.left, lambda s=slope: s)
                self._add_to(slopes, moving, node.right, lambda s=slope: s)
            elif isinstance(node, Scaled):
                self._add_to(slopes, moving, node.node, lambda s=slope, f=node.factor: self.scale(f, s))
        return found

    def along(self, root: int | None, directions: Mapping[str, str]) -> int | None:
        """Derivative of a node along a direction: tensors -> the tensors that they move along, row by row."""
        if root is None:
            return None
        slopes: dict[int, int | None] = {}
        for n in self.below([root]):
            node = self.nodes[n]
            if isinstance(node, Variable):
                slopes[n] = self.variable(directions[node.tensor], node.row) if node.tensor in directions else None
            elif isinstance(node, Product):
                left = self.multiply(slopes[node.left], node.right)
                slopes[n] = self.add(left, self.multiply(node.left, slopes[node.right]))
            elif isinstance(node, Sum):
                slopes[n] = self.add(slopes[node.left], slopes[node.right])
            elif isinstance(node, Scaled):
                slopes[n] = self.scale(node.factor, slopes[node.node])
        return slopes[root]

    def below(self, roots: Iterable[int]) -> list[int]:
        """All nodes that some depend on, themselves included, operands first."""
        found, waiting = set(roots), list(roots)
        while waiting:
            new = set(_operands(self.nodes[waiting.pop()])) - found
            found |= new
            waiting += new
        return sorted(found)

    def _node(self, node: Node) -> int:
        key = type(node), node  # a sum and a product of the same nodes are equal as tuples
        if key not in self._known:
            self._known[key] = len(self.nodes)
            self.nodes.append(node)
        return self._known[key]

    def _constant(self, n: int) -> float | None:
        """The value of a node that is a constant: 1 or a multiple."""
        node = self.nodes[n]
        if isinstance(node, Scaled):
            constant = self._constant(node.node)
            return None if constant is None else node.factor * constant
        return 1.0 if isinstance(node, One) else None

    def _add_to(self, slopes: dict, moving: Collection[int], n: int, share) -> None:  # type: ignore[no-untyped-def]
        if n in moving:
            slopes[n] = self.add(slopes.get(n), share())


def _operands(node: Node) -> tuple[int, ...]:
    if isinstance(node, Product | Sum):
        return node.left, node.right
    return (node.node,) if isinstance(node, Scaled) else ()


@dataclass(frozen=True)
class Program:
    """Results that are computed together.

    Attributes:
        expressions: holds the nodes.
        results: row of a tensor -> its value. Rows that are zero are absent.
        sizes: rows of every tensor, read or written.
    """

    expressions: Expressions
    results: Mapping[Variable, int]
    sizes: Mapping[str, int]

    @cached_property
    def steps(self) -> list[tuple[int, Node]]:
        """The nodes that are needed, operands first."""
        return [(n, self.expressions.nodes[n]) for n in self.expressions.below(self.results.values())]

    @cached_property
    def reads(self) -> tuple[str, ...]:
        """Tensors that are read, in the order of ``sizes``."""
        read = {node.tensor for _, node in self.steps if isinstance(node, Variable)}
        return tuple(name for name in self.sizes if name in read)

    @cached_property
    def writes(self) -> tuple[str, ...]:
        """Tensors that are written, in the order of ``sizes``; some may have no row but zeros."""
        return tuple(name for name in self.sizes if name.startswith(SLOPE))

    def cost(self) -> int:
        """Additions and multiplications, fused ones counted once."""
        return sum(isinstance(node, Product | Scaled) for _, node in self.steps)


#: Names of results: the derivative with respect to the tensor whose name follows.
SLOPE = "d_"


def derive(
    expressions: Expressions,
    pieces: Iterable[int | None],
    wanted: Collection[str],
    sizes: Mapping[str, int],
    tangents: Iterable[Mapping[str, str]] = (),
) -> Program:
    """The derivatives of a sum of pieces with respect to the variables of some tensors.

    Pieces are differentiated one by one as they come, so that what belongs together is computed together.

    Args:
        expressions: where the pieces are made.
        pieces: made one by one.
        wanted: names of tensors.
        sizes: rows of every tensor.
        tangents: directions along which the sum is differentiated first.
    """
    total: dict[Variable, int] = {}
    directions = list(tangents)
    for piece in pieces:
        for direction in directions:
            piece = expressions.along(piece, direction)
        for variable, slope in expressions.gradients(piece, wanted).items():
            value = expressions.add(total.get(variable), slope)
            assert value is not None
            total[variable] = value
    results = {Variable(SLOPE + name, row): value for (name, row), value in total.items()}
    return Program(expressions, results, {**sizes, **{SLOPE + name: sizes[name] for name in sizes if name in wanted}})
