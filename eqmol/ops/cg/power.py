"""Symmetric powers as one polynomial per group and channel.

A coupling is a polynomial in the components of the field; a sum of weighted couplings is one polynomial, whose coefficients do
not depend on the nodes. Each of its monomials is split into the factor of least degree and the rest: with M_k the monomials
of order k,

    out_l3 = Σ_l1 Σ_m1 x_l1m1 T_l3,l1m1,    T_l3,l1 = Σ_k c_l3,l1,k · M_k

where T is a matrix product per channel over the nodes of a group, and M_k is needed only where no factor has a degree below l1.

Shapes: N nodes, C channels, G groups, W weights, K monomials, lm components. Inside, nodes come last and are sorted by group.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, combinations_with_replacement, groupby
from math import isqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eqmol.ops import kernels
from eqmol.ops.chunks import MONOMIALS
from eqmol.ops.contract import Power
from eqmol.ops.multilinear import partials
from eqmol.ops.spec import Spec
from eqmol.so3.layout import degree_slice, dim
from eqmol.so3.symmetric import couplings, monomials

Monomial = tuple[int, ...]


class CGPower(Power):
    """The symmetric product as one polynomial per group and channel."""

    has_kernels = True
    basis: Tensor
    normalization: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.add_table("basis", spec.paths)
        self.add_table("normalization", spec.path_normalization)
        rows = [_sorted_monomials(spec, order) for order in range(spec.order)]
        terms = [*chain(*rows)]
        if spec.order > 1:
            self.add_table("components", np.array(rows[1])[:, 0])
        self.steps = [_Step(spec, rows[order - 1], rows[order]) for order in range(2, spec.order)]
        self.blocks = _blocks(spec, terms)
        self.width = len(rows[-1])
        for i, block in enumerate(self.blocks):
            self.add_table(f"polynomial{i}", _polynomials(spec, block, terms))

    def forward(self, x: Tensor, weight: Tensor, group: Tensor) -> Tensor:
        compiled = kernels.power(self, x, weight, group)
        if compiled is not None:
            return compiled
        if self.spec.has_own_weights:
            weight = torch.einsum("gwc,wp->gpc", weight, self.basis)
        present, local, counts = torch.unique(group, return_inverse=True, return_counts=True)
        order = torch.argsort(local, stable=True)
        coefficients = self._coefficients(weight.index_select(0, present) * self.normalization.unsqueeze(-1))
        parts = x.index_select(0, order).flatten(1).split(counts.tolist())
        size = max(16, MONOMIALS.numbers(x) // (x.shape[2] * self.width))
        values = [x.new_zeros(0, dim(self.spec.degree_out) * x.shape[2])]
        for part, own in zip(parts, coefficients, strict=True):
            values += [self._evaluate(chunk, own) for chunk in part.split(size)]
        return torch.cat(values).index_select(0, torch.argsort(order)).unflatten(1, (-1, x.shape[2]))

    def _evaluate(self, x: Tensor, coefficients: Tensor) -> Tensor:
        """Polynomials of one group: x [N, lm · C], coefficients [C, Σ height · K] -> [N, lm_out · C]."""
        x = _Transpose.apply(x).unflatten(0, (dim(self.spec.degree_in), -1))
        terms = [torch.ones_like(x[:1])]
        if self.spec.order > 1:
            terms.append(x.index_select(0, self.get_buffer("components")))
        for step in self.steps:
            terms += partials(step, [2], [x, terms[-1], None])
        form = _Contraction(dim(self.spec.degree_out), self.blocks)
        (result,) = partials(form, [_OUT], [x, torch.cat(terms), coefficients, None])
        return _Transpose.apply(result.flatten(0, 1))

    def _coefficients(self, weight: Tensor) -> Tensor:
        """Of all blocks [G, C, Σ height · K], from weight [G, W, C]."""
        weight = weight.transpose(1, 2)
        tables = (self.get_buffer(f"polynomial{i}") for i in range(len(self.blocks)))
        return torch.cat([weight[..., b.paths] @ table for b, table in zip(self.blocks, tables, strict=True)], dim=-1)


@dataclass(frozen=True)
class _Block:
    """Couplings of one order to l3 whose factor of least degree has degree l1: a range of paths and of monomials."""

    l3: int
    l1: int
    order: int
    paths: slice
    rows: slice

    @property
    def height(self) -> int:
        return (2 * self.l3 + 1) * (2 * self.l1 + 1)


class _Transpose(torch.autograd.Function):
    """A transposed copy of a matrix, also in the derivatives."""

    @staticmethod
    def forward(matrix: Tensor) -> Tensor:
        return matrix.T.contiguous()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Transpose.apply(grad)


class _Step:
    """Σ_k g_k x_first(k) m_rest(k), linear in x [lm, C, N], m [K', C, N] and g [K, C, N]."""

    def __init__(self, spec: Spec, shorter: Sequence[Monomial], longer: Sequence[Monomial]) -> None:
        position = {term: row for row, term in enumerate(shorter)}
        self.size = len(longer)
        #: first factor, rows of the others, rows of the products: side by side thanks to the order of monomials
        self.runs: list[tuple[int, slice, slice]] = []
        for (_, first), run in groupby(enumerate(longer), key=lambda item: (_class(spec, item[1]), item[1][0])):
            rows, terms = zip(*run, strict=True)
            start = position[terms[0][1:]]
            assert [position[term[1:]] for term in terms] == [*range(start, start + len(terms))]
            self.runs.append((first, slice(start, start + len(terms)), slice(rows[0], rows[-1] + 1)))

    def partials(self, slots: Sequence[int], arguments: Sequence[Any]) -> list[Tensor]:
        x, m, g = arguments
        result = []
        for slot in slots:
            if slot == 2:
                value = x.new_empty(self.size, *x.shape[1:])
                for first, rest, rows in self.runs:
                    torch.mul(m[rest], x[first], out=value[rows])
            elif slot == 1:
                value = torch.zeros_like(m)
                for first, rest, rows in self.runs:
                    value[rest].addcmul_(g[rows], x[first])
            else:
                value = torch.zeros_like(x)
                for first, rest, rows in self.runs:
                    value[first] += (g[rows] * m[rest]).sum(0)
            result.append(value)
        return result


_X, _TERMS, _COEFFICIENTS, _OUT = range(4)


class _Contraction:
    """Σ g_l3 x_l1 c M, linear in x [lm, C, N], M [K, C, N] of all orders, c [C, Σ height · K] and g [lm_out, C, N]."""

    def __init__(self, rows: int, blocks: Sequence[_Block]) -> None:
        self.rows = rows
        self.pairs: dict[tuple[int, int], list[tuple[_Block, slice]]] = {}
        first = 0
        for block in blocks:
            last = first + block.height * (block.rows.stop - block.rows.start)
            self.pairs.setdefault((block.l3, block.l1), []).append((block, slice(first, last)))
            first = last

    def partials(self, slots: Sequence[int], arguments: Sequence[Any]) -> list[Tensor]:
        x = arguments[_X]
        shape = self.rows, *x.shape[1:]
        result = {s: x.new_zeros(shape if s == _OUT else arguments[s].shape) for s in slots}
        for l3, l1 in self.pairs:
            self._add(l3, l1, arguments, result)
        return [result[s] for s in slots]

    def _add(self, l3: int, l1: int, arguments: Sequence[Any], result: dict[int, Tensor]) -> None:
        """Add the share of one pair of degrees to every result."""
        x, terms, coefficients, g = arguments
        x = _nodes_last(x[degree_slice(l1)]).unsqueeze(1)
        if _OUT in result or _X in result:
            # T_l3,l1
            products = [
                torch.bmm(coefficients[:, own].unflatten(1, (b.height, -1)), _nodes_last(terms[b.rows]))
                for b, own in self.pairs[l3, l1]
            ]
            total = sum(products[1:], products[0]).unflatten(1, (2 * l3 + 1, 2 * l1 + 1))
        if _OUT in result:
            _nodes_last(result[_OUT][degree_slice(l3)]).add_((total * x).sum(2))
        if result.keys() == {_OUT}:
            return
        g = _nodes_last(g[degree_slice(l3)]).unsqueeze(2)
        if _X in result:
            _nodes_last(result[_X][degree_slice(l1)]).add_((total * g).sum(1))
        if result.keys() <= {_OUT, _X}:
            return
        slope = (g * x).flatten(1, 2)
        for b, own in self.pairs[l3, l1]:
            if _TERMS in result:
                back = torch.bmm(coefficients[:, own].unflatten(1, (b.height, -1)).mT, slope)
                _nodes_last(result[_TERMS][b.rows]).add_(back)
            if _COEFFICIENTS in result:
                result[_COEFFICIENTS][:, own] = torch.bmm(slope, _nodes_last(terms[b.rows]).mT).flatten(1)


def _nodes_last(tensor: Tensor) -> Tensor:
    """[rows, C, N] -> [C, rows, N], one matrix per channel."""
    return tensor.transpose(0, 1)


def _degree(component: int) -> int:
    return isqrt(component)


def _class(spec: Spec, term: tuple[int, ...]) -> int:
    """Parity of the sum of degrees where it decides whether a monomial can take part, else 0."""
    even_only = spec.parity == "o3" or spec.family == "gaunt"
    return sum(map(_degree, term)) % 2 if even_only else 0


def _sorted_monomials(spec: Spec, order: int) -> list[Monomial]:
    """Sorted so that those of one parity without factors below a degree lie side by side."""
    terms = combinations_with_replacement(range(dim(spec.degree_in)), order)
    return sorted(terms, key=lambda term: (_class(spec, term), term))


def _blocks(spec: Spec, terms: Sequence[Monomial]) -> list[_Block]:
    members: dict[tuple[int, int, int], list[int]] = {}
    for path, (factors, l3, _) in enumerate(spec.power_paths):
        members.setdefault((l3, factors[0], len(factors)), []).append(path)
    blocks = []
    for (l3, l1, order), paths in members.items():
        parity = _class(spec, (l3**2, l1**2))
        inside = [
            row
            for row, term in enumerate(terms)
            if len(term) == order - 1 and (not term or term[0] >= l1**2) and _class(spec, term) == parity
        ]
        assert paths[-1] - paths[0] + 1 == len(paths)
        assert inside[-1] - inside[0] + 1 == len(inside)
        blocks.append(_Block(l3, l1, order, slice(paths[0], paths[-1] + 1), slice(inside[0], inside[-1] + 1)))
    return blocks


def _polynomials(spec: Spec, block: _Block, terms: Sequence[Monomial]) -> np.ndarray:
    """[paths, (2 l3 + 1) · (2 l1 + 1) · K]: component × first factor × other factors."""
    position = {term: row for row, term in enumerate(terms[block.rows])}
    tables = []
    for factors, l3, index in spec.power_paths[block.paths]:
        first = [term[0] - block.l1**2 for term in monomials(factors)]
        rest = [position[term[1:]] for term in monomials(factors)]
        table = np.zeros((2 * l3 + 1, 2 * block.l1 + 1, len(position)))
        table[:, first, rest] = couplings(factors, l3)[index]
        tables.append(table.ravel())
    return np.stack(tables)
