"""Products along single paths, weighted after the coupling, as forms in weights, two factors and the cotangent.

    out_k += weight_p · C_p(x_i, y_j)    for every path p = (i, j, k)

Unlike those of :mod:`eqmol.ops`, which add all paths into a degree, results have a tensor for every block of e3nn's irreps. The
coupling of all paths that start from a block, or from a pair of blocks, is one matrix product. Nothing of it is kept: see
:mod:`eqmol.ops.edges`.

Shapes: e rows (edges, or samples) of a chunk, C channels, W weights, K components of all paths from a block.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from eqmol.interop.paths import Group, Slot
from eqmol.ops.so2 import matmul
from eqmol.so3.coupling import wigner_3j

_WEIGHT, _X, _Y, _OUT = range(4)


class PathMessage(NamedTuple):
    """The form in weight [e, W, C], x [e, rows, C], y [e, rows] (uvu) or [e, rows, C] (uuu) and the cotangent [e, rows, C].

    Attributes:
        group: the paths.
        tables: what :func:`couplings` returned.
    """

    group: Group
    tables: Sequence[Tensor]

    def bind(self, arguments: Sequence[Tensor]) -> Callable[[Sequence[int]], list[Tensor]]:
        return _Bound(self.group, self.tables, arguments).derivatives


def couplings(group: Group, components: int) -> list[np.ndarray]:
    """3j symbols with their constants, of all paths from a block (uvu) or a pair of blocks (uuu), in the order of the paths.

    Args:
        group: the paths.
        components: of the second factor, all its blocks.

    Returns:
        uvu: [components, (2 l1 + 1) · K] per block; uuu: [K, (2 l1 + 1) · (2 l2 + 1)] per pair.
    """
    tables: list[np.ndarray] = []
    for paths in _sources(group).values():
        parts: list[np.ndarray] = []
        for p in paths:
            l1, l2, l3 = group.degrees(group.paths[p])
            tensor = wigner_3j(l1, l2, l3) * group.paths[p].constant
            if group.has_channels:
                parts.append(tensor.transpose(2, 0, 1).reshape(2 * l3 + 1, -1))
                continue
            start = group.second[group.paths[p].second].start
            part = np.zeros((components, 2 * l1 + 1, 2 * l3 + 1))
            part[start : start + 2 * l2 + 1] = tensor.transpose(1, 0, 2)
            parts.append(part)
        if group.has_channels:
            tables.append(np.concatenate(parts))
        else:
            tables.append(np.concatenate(parts, axis=2).reshape(components, -1))
    return tables


def rows_of(slots: Sequence[Slot]) -> list[slice]:
    """Where each of the tensors of a group lies among all their components."""
    stops = np.cumsum([2 * slot.degree + 1 for slot in slots]).tolist()
    return [slice(start, stop) for start, stop in zip([0, *stops], stops, strict=False)]


def _sources(group: Group) -> dict[tuple[int, ...], list[int]]:
    """Paths from every block of the first factor, or from every pair of blocks."""
    found: dict[tuple[int, ...], list[int]] = {}
    for p, path in enumerate(group.paths):
        found.setdefault((path.first, path.second) if group.has_channels else (path.first,), []).append(p)
    return found


class _Coupling(Protocol):
    """The product before the weights.

    Attributes:
        products: per path, [e, 2 l3 + 1, C].
    """

    products: list[Tensor]

    def multiply(self) -> None:
        """Write the products."""

    def pull_back(self, by_x: Tensor | None, by_y: Tensor | None) -> None:
        """Add derivatives by the factors to what is given, with those by the products in their place."""


class _Bound:
    """Views of all paths into the arguments of a chunk, made once and used for every chunk."""

    def __init__(self, group: Group, tables: Sequence[Tensor], arguments: Sequence[Tensor]) -> None:
        weight, x, y, g = arguments
        self.result = [torch.empty_like(argument) for argument in arguments]
        make = _ByChannel if group.has_channels else _BySample
        self.coupling: _Coupling = make(group, tables, x, y)
        out_rows = rows_of(group.out)
        #: per path: product, cotangent, result, weight, derivative by it
        self.paths = [
            (
                product,
                g[:, out_rows[path.out]],
                self.result[_OUT][:, out_rows[path.out]],
                weight[:, path.weight : path.weight + 1],
                self.result[_WEIGHT][:, path.weight],
            )
            for path, product in zip(group.paths, self.coupling.products, strict=True)
        ]
        outs = [path.out for path in group.paths]
        self.is_first = [outs.index(out) == p for p, out in enumerate(outs)]
        self.is_shared = len({path.weight for path in group.paths}) < len(group.paths)

    def derivatives(self, slots: Sequence[int]) -> list[Tensor]:
        if _OUT in slots or _WEIGHT in slots:
            self.coupling.multiply()
        if _OUT in slots:
            for (product, _, out, weight, _), first in zip(self.paths, self.is_first, strict=True):
                if first:
                    torch.mul(product, weight, out=out)
                else:
                    out.addcmul_(product, weight)
        if _WEIGHT in slots:
            self._by_weight()
        if _X in slots or _Y in slots:
            for product, cotangent, _, weight, _ in self.paths:
                torch.mul(cotangent, weight, out=product)
            wanted = [self.result[slot].zero_() if slot in slots else None for slot in (_X, _Y)]
            self.coupling.pull_back(*wanted)
        return [self.result[slot] for slot in slots]

    def _by_weight(self) -> None:
        if self.is_shared:
            self.result[_WEIGHT].zero_()
        for product, cotangent, _, _, total in self.paths:
            if self.is_shared:
                total += (product * cotangent).sum(1)
            else:
                torch.sum(product.mul_(cotangent), 1, out=total)


class _BySample:
    """The second factor has no channels: with the 3j symbols it is one matrix [2 l1 + 1, K] per row and block."""

    def __init__(self, group: Group, tables: Sequence[Tensor], x: Tensor, y: Tensor) -> None:
        self.y = y
        self.products = [x] * len(group.paths)
        #: table, features of the block, where they are, products of all its paths
        self.blocks: list[tuple[Tensor, Tensor, slice, Tensor]] = []
        rows = rows_of(group.first)
        for ((block,), paths), table in zip(_sources(group).items(), tables, strict=True):
            sizes = [2 * group.out[group.paths[p].out].degree + 1 for p in paths]
            products = x.new_empty(len(x), sum(sizes), x.shape[2])
            for p, part in zip(paths, products.split(sizes, dim=1), strict=True):
                self.products[p] = part
            self.blocks.append((table, x[:, rows[block]], rows[block], products))

    def multiply(self) -> None:
        for table, x, _, products in self.blocks:
            matrix = self._matrix(table, x)
            if x.shape[1] == 1:
                torch.mul(matrix.mT, x, out=products)
            else:
                matmul(matrix.mT, x, products)

    def pull_back(self, by_x: Tensor | None, by_y: Tensor | None) -> None:
        for table, x, rows, products in self.blocks:
            if by_x is not None:
                by_x[:, rows] = matmul(self._matrix(table, x), products)
            if by_y is not None:
                by_y.addmm_(torch.bmm(x, products.mT).flatten(1), table.T)

    def _matrix(self, table: Tensor, x: Tensor) -> Tensor:
        return (self.y @ table).unflatten(1, (x.shape[1], -1))


class _ByChannel:
    """Both factors have channels: the outer product of two blocks, components first, meets all 3j symbols in one matrix product."""

    def __init__(self, group: Group, tables: Sequence[Tensor], x: Tensor, y: Tensor) -> None:
        self.products = [x] * len(group.paths)
        #: table, both blocks and where they are, outer product, products of all paths
        self.pairs: list[tuple[Tensor, Tensor, Tensor, slice, slice, Tensor, Tensor]] = []
        rows, others = rows_of(group.first), rows_of(group.second)
        for ((i, j), paths), table in zip(_sources(group).items(), tables, strict=True):
            left, right = x[:, rows[i]].transpose(0, 1), y[:, others[j]].transpose(0, 1)
            outer = x.new_empty(len(left), len(right), len(x), x.shape[2])
            sizes = [2 * group.out[group.paths[p].out].degree + 1 for p in paths]
            products = x.new_empty(sum(sizes), len(x), x.shape[2])
            for p, part in zip(paths, products.split(sizes), strict=True):
                self.products[p] = part.transpose(0, 1)
            self.pairs.append((table, left, right, rows[i], others[j], outer, products))

    def multiply(self) -> None:
        for table, left, right, _, _, outer, products in self.pairs:
            torch.mul(left.unsqueeze(1), right, out=outer)
            torch.mm(table, outer.view(table.shape[1], -1), out=products.view(len(table), -1))

    def pull_back(self, by_x: Tensor | None, by_y: Tensor | None) -> None:
        for table, left, right, rows, others, outer, products in self.pairs:
            torch.mm(table.T, products.view(len(table), -1), out=outer.view(table.shape[1], -1))
            if by_x is not None:
                for part, factor in zip(outer.unbind(1), right, strict=True):
                    by_x[:, rows].transpose(0, 1).addcmul_(part, factor)
            if by_y is not None:
                for part, factor in zip(outer, left, strict=True):
                    by_y[:, others].transpose(0, 1).addcmul_(part, factor)
