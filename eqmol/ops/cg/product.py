"""Product of two features: outer products of two degrees, contracted with all their 3j symbols in one matrix product.

Nodes are treated a chunk at a time with components first, so that every step runs along whole rows of nodes and channels in
the cache, and nothing is kept.

Shapes: N nodes, C channels, P paths, lm components; for a pair of degrees (l1, l2), D = Σ over its paths of (2 l3 + 1).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from eqmol.ops.contract import Product
from eqmol.ops.multilinear import partials
from eqmol.ops.spec import Spec
from eqmol.so3.coupling import wigner_3j
from eqmol.so3.layout import degree_slice, dim

#: Elements of the largest outer product made at a time: they stay in the cache.
CHUNK_ELEMENTS = 1 << 18


class CGProduct(Product):
    """Dense contraction with the 3j symbols, degree by degree."""

    basis: Tensor
    scale: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.add_table("basis", spec.paths)
        # with this norm of the 3j symbols those of a scalar are the identity
        self.add_table("scale", spec.path_normalization / np.sqrt(2 * spec.path_degrees + 1))
        self.pairs = [_pair(spec, l1, l2) for l1, l2 in sorted({path[:2] for path in spec.pair_paths})]
        for pair in self.pairs:
            blocks = [
                wigner_3j(pair.l1, pair.l2, l3).reshape(-1, 2 * l3 + 1) * np.sqrt(2 * l3 + 1) for _, l3, _ in pair.paths
            ]
            self.add_table(f"couple{pair.l1}_{pair.l2}", np.concatenate(blocks, axis=1).T)

    def forward(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        if self.spec.has_own_weights:
            weight = torch.einsum("...wc,wp->...pc", weight, self.basis)
        tables = [self.get_buffer(f"couple{pair.l1}_{pair.l2}") for pair in self.pairs]
        (result,) = partials(
            _Trilinear(self.spec, self.pairs, tables), [_OUT], [x, y, weight * self.scale.unsqueeze(-1), None]
        )
        return result


class _Pair(NamedTuple):
    """Two degrees and, for each of their paths, its index, output degree and rows of D."""

    l1: int
    l2: int
    paths: list[tuple[int, int, slice]]

    @property
    def scalar(self) -> bool:
        """Whether one factor is a scalar, so that there is nothing to couple."""
        return 0 in (self.l1, self.l2)


def _pair(spec: Spec, l1: int, l2: int) -> _Pair:
    paths, first = [], 0
    for p, path in enumerate(spec.pair_paths):
        if path[:2] == (l1, l2):
            paths.append((p, path[2], slice(first, first + 2 * path[2] + 1)))
            first += 2 * path[2] + 1
    return _Pair(l1, l2, paths)


_X, _Y, _WEIGHT, _OUT = range(4)


class _Trilinear:
    """Σ w_p C_m1m2m3 x_m1 y_m2 g_m3, linear in x, y, g [N, lm, C] and the weight [P, C] or [N, P, C]."""

    def __init__(self, spec: Spec, pairs: Sequence[_Pair], tables: Sequence[Tensor]) -> None:
        self.spec, self.pairs, self.tables = spec, pairs, tables

    def partials(self, slots: Sequence[int], arguments: Sequence[Any]) -> list[Tensor]:
        x, y, weight, _ = arguments
        shape = x.shape[0], dim(self.spec.degree_out), x.shape[2]
        result = {s: x.new_zeros(shape) if s == _OUT else torch.empty_like(arguments[s]) for s in slots}
        if _WEIGHT in result:
            result[_WEIGHT].zero_()
        largest = (2 * self.spec.degree_in + 1) * (2 * self.spec.degree_filter + 1)
        size = max(8, CHUNK_ELEMENTS // (largest * x.shape[2]))
        for first in range(0, len(x), size):
            rows = slice(first, first + size)
            chunk = [None if a is None else a[rows].transpose(0, 1).contiguous() for a in (x, y, arguments[_OUT])]
            shared = weight.dim() == 2
            # [P, 1 or nodes, C]
            own = weight.unsqueeze(1) if shared else weight[rows].transpose(0, 1)
            for slot, value in self._chunk(slots, [*chunk[:2], own, chunk[2]]).items():
                if slot == _WEIGHT and shared:
                    result[slot] += value.sum(1)
                else:
                    result[slot][rows] = value.transpose(0, 1)
        return [result[s] for s in slots]

    def _chunk(self, slots: Sequence[int], arguments: Sequence[Any]) -> dict[int, Tensor]:
        """Derivatives for some nodes, components (paths) first."""
        x, y, weight, g = arguments
        nodes, channels = x.shape[1:]
        sizes = {_X: len(x), _Y: len(y), _WEIGHT: len(weight), _OUT: dim(self.spec.degree_out)}
        result = {s: x.new_zeros(sizes[s], nodes, channels) for s in slots}
        for pair, table in zip(self.pairs, self.tables, strict=True):
            a, b = x[degree_slice(pair.l1)].unsqueeze(1), y[degree_slice(pair.l2)]
            if _OUT in result or _WEIGHT in result:
                outer = (a * b).flatten(0, 1)
                coupled = outer if pair.scalar else (table @ outer.flatten(1)).view(-1, nodes, channels)
                for path, l3, rows in pair.paths:
                    if _OUT in result:
                        result[_OUT][degree_slice(l3)].addcmul_(coupled[rows], weight[path])
                    if _WEIGHT in result:
                        _add_products(result[_WEIGHT][path], coupled[rows], g[degree_slice(l3)])
            if _X in result or _Y in result:
                weighted = x.new_empty(len(table), nodes, channels)
                for path, l3, rows in pair.paths:
                    torch.mul(g[degree_slice(l3)], weight[path], out=weighted[rows])
                slope = weighted if pair.scalar else table.T @ weighted.flatten(1)
                slope = slope.view(len(a), len(b), nodes, channels)
                if _X in result:
                    _add_products(result[_X][degree_slice(pair.l1)], slope.transpose(0, 1), b)
                if _Y in result:
                    _add_products(result[_Y][degree_slice(pair.l2)], slope, a)
        return result


def _add_products(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add Σ left · right over the first dimension, which is short, without a tensor of all products."""
    for a, b in zip(left, right, strict=True):
        total.addcmul_(a, b)
