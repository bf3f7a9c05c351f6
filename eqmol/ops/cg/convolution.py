"""Convolution with the weights on the sender's side.

With the harmonics contracted with the 3j symbols, every edge has one small matrix A_l3 [K, 2 l3 + 1] per output degree, the same
for all channels; rows are the pairs (path into l3, component of its l1). The weighted features of the sender have the same
rows, so that one matrix product per edge sums paths and components:

    message_l3 = A_l3ᵀ V_l3,    V_l3 = weight[path] · x[component of l1]

It is made a chunk of edges at a time and never kept (see :mod:`eqmol.ops.edges`).

Shapes: N nodes, E edges, C channels, P paths, K = Σ over paths into l3 of (2 l1 + 1).
"""

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor

from eqmol.ops import kernels
from eqmol.ops.contract import HarmonicConvolution, RadialWeight, side_by_side
from eqmol.ops.edges import Nodes, sum_messages
from eqmol.ops.spec import Spec
from eqmol.so3.coupling import wigner_3j
from eqmol.so3.layout import degree_slice, dim


class CGConvolution(HarmonicConvolution):
    """Dense 3j contraction with the harmonics of every edge, recomputed and never stored."""

    has_kernels = True
    basis: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.add_table("basis", spec.paths)
        #: per block and l3 the pairs (l1, its paths), which lie side by side
        self.pairs: list[list[tuple[int, slice]]] = []
        for block, l3 in product(range(spec.num_blocks), range(spec.degree_out + 1)):
            own = [p for p, path in enumerate(spec.pair_paths) if (spec.path_blocks[p], path[2]) == (block, l3)]
            starts = sorted({spec.pair_paths[p][0] for p in own})
            members = [[p for p in own if spec.pair_paths[p][0] == l1] for l1 in starts]
            self.add_table(f"couple{len(self.pairs)}", _couple(spec, l3, own))
            self.pairs.append([(l1, slice(m[0], m[-1] + 1)) for l1, m in zip(starts, members, strict=True)])

    def forward(
        self, x: Tensor, geometry: Tensor, weight: RadialWeight, senders: Tensor, receivers: Tensor, num_receivers: int
    ) -> Tensor:
        compiled = kernels.convolution(self, x, geometry, weight, senders, receivers, num_receivers)
        if compiled is not None:
            return compiled
        if self.spec.has_own_weights:
            weight = weight.rebased(self.basis)
        tables = [self.get_buffer(f"couple{i}") for i in range(len(self.pairs))]
        message = _Message(self.spec.degree_out, self.pairs, tables)
        rows = self.spec.num_blocks * dim(self.spec.degree_out)
        nodes = Nodes(senders, receivers, num_receivers)
        return side_by_side(self.spec, sum_messages(message, rows, x, [geometry], weight, nodes))


def _couple(spec: Spec, l3: int, paths: Sequence[int]) -> np.ndarray:
    """Harmonics -> A_l3, [lm_filter, K · (2 l3 + 1)]."""
    blocks = [np.zeros((dim(spec.degree_filter), 0, 2 * l3 + 1))]
    for p in paths:
        l1, l2, _ = spec.pair_paths[p]
        block = np.zeros((dim(spec.degree_filter), 2 * l1 + 1, 2 * l3 + 1))
        block[degree_slice(l2)] = wigner_3j(l1, l2, l3).transpose(1, 0, 2) * spec.path_normalization[p]
        blocks.append(block)
    return np.concatenate(blocks, axis=1).reshape(dim(spec.degree_filter), -1)


_WEIGHT, _X, _HARMONICS, _OUT = range(4)


class _Message:
    """Σ g · message, linear in weight [E, P, C], x [E, lm, C], harmonics [E, lm_filter] and g [E, K · lm_out, C]."""

    def __init__(self, degree: int, pairs: Sequence[Sequence[tuple[int, slice]]], tables: Sequence[Tensor]) -> None:
        self.pairs, self.tables = pairs, tables
        blocks = len(pairs) // (degree + 1)
        #: components of every degree out, one block after another
        self.sizes = [2 * l3 + 1 for l3 in range(degree + 1)] * blocks

    def bind(self, arguments: Sequence[Tensor]) -> Callable[[Sequence[int]], list[Tensor]]:
        weight, x, harmonics, g = arguments
        result = [torch.empty_like(argument) for argument in arguments]
        degrees = [
            _Degree(pairs, table, weight, x, result) for pairs, table in zip(self.pairs, self.tables, strict=True)
        ]
        cotangents, messages = g.split(self.sizes, dim=1), result[_OUT].split(self.sizes, dim=1)

        def derivatives(slots: Sequence[int]) -> list[Tensor]:
            if _X in slots:
                result[_X].zero_()
            if _HARMONICS in slots:
                result[_HARMONICS].zero_()
            for degree, cotangent, message in zip(degrees, cotangents, messages, strict=True):
                if _OUT in slots or _HARMONICS in slots:
                    degree.weigh()
                if slots != [_HARMONICS]:
                    a = (harmonics @ degree.table).unflatten(-1, (-1, cotangent.shape[1]))
                if _OUT in slots:
                    message.copy_(torch.bmm(a.mT, degree.v))
                if _HARMONICS in slots:
                    result[_HARMONICS].addmm_(torch.bmm(degree.v, cotangent.mT).flatten(1), degree.table.T)
                if _WEIGHT in slots or _X in slots:
                    torch.bmm(a, cotangent, out=degree.v)
                    degree.unweigh(_WEIGHT in slots, _X in slots)
            return [result[slot] for slot in slots]

        return derivatives


class _Degree:
    """V of one output degree, its weights and features by l1: views made once for all chunks of edges."""

    def __init__(
        self, pairs: Sequence[tuple[int, slice]], table: Tensor, weight: Tensor, x: Tensor, result: Sequence[Tensor]
    ) -> None:
        self.table = table
        sizes = [(paths.stop - paths.start) * (2 * l1 + 1) for l1, paths in pairs]
        self.v = x.new_empty(len(x), sum(sizes), x.shape[2])
        self.weighted: list[tuple[Tensor, Tensor, Tensor]] = []
        #: derivative by the weight, then for every component of l1: derivative by V and feature
        self.by_weight: list[tuple[Tensor, list[tuple[Tensor, Tensor]]]] = []
        #: derivative by the features, by V and weight
        self.by_x: list[tuple[Tensor, Tensor, Tensor]] = []
        for (l1, paths), flat in zip(pairs, self.v.split(sizes, dim=1) if pairs else (), strict=True):
            part = flat.unflatten(1, (-1, 2 * l1 + 1))
            features = x[:, degree_slice(l1)].unsqueeze(1)
            self.weighted.append((weight[:, paths].unsqueeze(2), features, part))
            components = list(zip(part.unbind(2), features.unbind(2), strict=True))
            self.by_weight.append((result[_WEIGHT][:, paths], components))
            own = weight[:, paths].unsqueeze(2).unbind(1)
            by_features = result[_X][:, degree_slice(l1)]
            self.by_x += [(by_features, v, w) for v, w in zip(part.unbind(1), own, strict=True)]

    def weigh(self) -> None:
        """Write V."""
        for weight, features, part in self.weighted:
            torch.mul(weight, features, out=part)

    def unweigh(self, by_weight: bool, by_x: bool) -> None:
        """Write derivatives by the weight and add those by the features, given those by V in its place."""
        if by_weight:
            for total, ((part, features), *others) in self.by_weight:
                torch.mul(part, features, out=total)
                for part, features in others:
                    total.addcmul_(part, features)
        if by_x:
            for total, part, weight in self.by_x:
                total.addcmul_(part, weight)
