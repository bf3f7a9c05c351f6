"""Clebsch-Gordan algorithms: they run every spec and define what the others mean.

A spec with weights of its own is run with path weights w @ spec.paths.

- convolution: the harmonics of an edge are contracted with the 3j symbols once (geometry, shared by layers), leaving a small
  matrix per edge that acts on the sender's features; messages are summed per path before the paths are joined.
- product: outer products of degrees, contracted path by path.
- power: one polynomial per element and channel. With M_k the monomials of order k the polynomial is evaluated as
  Σ M_{ν-1} · (x · c_ν + c_{ν-1}) + ..., so that the bulk of it is one batched matrix product.

Shapes: E edges, N nodes, C channels, P paths, D = Σ over paths of (2 l3 + 1).
"""

from collections.abc import Hashable
from itertools import combinations_with_replacement

import numpy as np
import torch
from torch import Tensor

from eqmol.ops.contract import Convolution, Power, Product, RadialWeight, sum_edges, unit
from eqmol.ops.spec import Spec
from eqmol.so3.coupling import wigner_3j
from eqmol.so3.harmonics import spherical_harmonics
from eqmol.so3.layout import degree_slice, dim
from eqmol.so3.symmetric import couplings, monomials


class CGConvolution(Convolution):
    """Sparse 3j contraction with the harmonics of every edge."""

    basis: Tensor
    path_of: Tensor
    component_of: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.add_table("basis", spec.paths)
        #: per l1: the paths that start there
        self.starts = [[p for p, path in enumerate(spec.pair_paths) if path[0] == l] for l in range(spec.degree_in + 1)]
        path_of: list[int] = []
        component_of: list[int] = []
        for l1, paths in enumerate(self.starts):
            couple = np.zeros((dim(spec.degree_filter), 2 * l1 + 1, sum(2 * spec.pair_paths[p][2] + 1 for p in paths)))
            column = 0
            for p in paths:
                _, l2, l3 = spec.pair_paths[p]
                tensor = wigner_3j(l1, l2, l3) * spec.path_normalization[p]
                couple[degree_slice(l2), :, column : column + 2 * l3 + 1] = tensor.transpose(1, 0, 2)
                column += 2 * l3 + 1
                path_of += [p] * (2 * l3 + 1)
                component_of += range(l3**2, (l3 + 1) ** 2)
            self.add_table(f"couple{l1}", couple.transpose(0, 2, 1).reshape(len(couple), -1))
        self.add_table("path_of", np.array(path_of))
        self.add_table("component_of", np.array(component_of))

    @property
    def geometry_key(self) -> Hashable:
        s = self.spec
        return type(self), s.parity, s.degree_in, s.degree_filter, s.degree_out

    def geometry(self, vectors: Tensor) -> list[Tensor]:
        """Per l1: [E, D_l1, 2 l1 + 1], the map from the sender's features to all paths that start at l1."""
        harmonics = spherical_harmonics(unit(vectors), self.spec.degree_filter)
        return [
            (harmonics @ self.get_buffer(f"couple{l}")).unflatten(-1, (-1, 2 * l + 1)) for l in range(len(self.starts))
        ]

    def forward(
        self,
        x: Tensor,
        geometry: list[Tensor],
        weight: RadialWeight,
        senders: Tensor,
        receivers: Tensor,
        num_receivers: int,
    ) -> Tensor:
        if self.spec.has_own_weights:
            weight = weight.rebased(self.basis)
        sent = x.index_select(0, senders)
        paths = torch.cat([torch.bmm(m, sent[:, degree_slice(l)]) for l, m in enumerate(geometry)], dim=1)
        messages = paths * weight.dense().index_select(1, self.path_of)
        summed = sum_edges(messages, receivers, num_receivers)
        joined = summed.new_zeros(num_receivers, dim(self.spec.degree_out), summed.shape[-1])
        return joined.index_add(1, self.component_of, summed)


class CGProduct(Product):
    """Outer products of degrees, contracted with the 3j symbols."""

    basis: Tensor
    normalization: Tensor
    path_of: Tensor
    component_of: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.add_table("basis", spec.paths)
        self.add_table("normalization", spec.path_normalization)
        self.pairs = sorted({(l1, l2) for l1, l2, _ in spec.pair_paths})
        path_of: list[int] = []
        component_of: list[int] = []
        for l1, l2 in self.pairs:
            blocks = []
            for p, path in enumerate(spec.pair_paths):
                if path[:2] == (l1, l2):
                    blocks.append(wigner_3j(*path).reshape(-1, 2 * path[2] + 1))
                    path_of += [p] * (2 * path[2] + 1)
                    component_of += range(path[2] ** 2, (path[2] + 1) ** 2)
            self.add_table(f"couple{l1}_{l2}", np.concatenate(blocks, axis=1).T)
        self.add_table("path_of", np.array(path_of))
        self.add_table("component_of", np.array(component_of))

    def forward(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        if self.spec.family == "gaunt":
            weight = torch.einsum("...wc,wp->...pc", weight, self.basis)
        weight = weight * self.normalization.unsqueeze(-1)
        terms = []
        for l1, l2 in self.pairs:
            outer = x[:, degree_slice(l1), None] * y[:, None, degree_slice(l2)]
            terms.append(self.get_buffer(f"couple{l1}_{l2}") @ outer.flatten(1, 2))
        weighted = torch.cat(terms, dim=1) * weight.index_select(-2, self.path_of)
        joined = x.new_zeros(x.shape[0], dim(self.spec.degree_out), x.shape[2])
        return joined.index_add(1, self.component_of, weighted)


class CGPower(Power):
    """The symmetric product as one polynomial per element and channel."""

    basis: Tensor
    normalization: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.add_table("basis", spec.paths)
        self.add_table("normalization", spec.path_normalization)
        size = dim(spec.degree_in)
        position: dict[tuple[int, ...], int] = {(): 0}
        for k in range(1, spec.order):
            prefixes = list(combinations_with_replacement(range(size), k))
            self.add_table(f"parent{k}", np.array([position[prefix[:-1]] for prefix in prefixes]))
            self.add_table(f"last{k}", np.array([prefix[-1] for prefix in prefixes]))
            position = {prefix: i for i, prefix in enumerate(prefixes)}
        #: (l3, order) -> first and last + 1 of its paths, which lie side by side (possibly none)
        self.ranges: dict[tuple[int, int], tuple[int, int]] = {}
        first = 0
        for l3 in range(spec.degree_out + 1):
            for order in range(1, spec.order + 1):
                table = _polynomials(spec, l3, order)
                self.ranges[l3, order] = first, first + len(table)
                self.add_table(f"polynomial{l3}_{order}", table)
                first += len(table)

    def forward(self, x: Tensor, weight: Tensor, group: Tensor) -> Tensor:
        if self.spec.family == "gaunt":
            weight = torch.einsum("gwc,wp->gpc", weight, self.basis)
        present, local, counts = torch.unique(group, return_inverse=True, return_counts=True)
        order = torch.argsort(local, stable=True)
        parts = x.index_select(0, order).permute(2, 0, 1).contiguous().split(counts.tolist(), dim=1)
        weight = weight.index_select(0, present) * self.normalization.unsqueeze(-1)
        coefficients = [table.unbind() for table in self._coefficients(weight)]
        values = [self._evaluate(part, own) for part, own in zip(parts, zip(*coefficients, strict=True), strict=True)]
        result = torch.cat([x.new_zeros(x.shape[2], 0, dim(self.spec.degree_out)), *values], dim=1)
        return result.permute(1, 2, 0).index_select(0, torch.argsort(order))

    def _coefficients(self, weight: Tensor) -> list[Tensor]:
        """Per order k: polynomial coefficients [groups, C, lm_in, lm_out · prefixes of order k - 1]."""
        size = dim(self.spec.degree_in)
        per_channel = weight.transpose(1, 2)
        result = []
        for order in range(1, self.spec.order + 1):
            blocks = []
            for l3 in range(self.spec.degree_out + 1):
                first, last = self.ranges[l3, order]
                block = per_channel[..., first:last] @ self.get_buffer(f"polynomial{l3}_{order}")
                blocks.append(block.unflatten(-1, (size, 2 * l3 + 1, -1)))
            result.append(torch.cat(blocks, dim=3).flatten(3))
        return result

    def _evaluate(self, x: Tensor, coefficients: tuple[Tensor, ...]) -> Tensor:
        """Polynomials of one group: x [C, N, lm_in], coefficients as above -> [C, N, lm_out]."""
        out = dim(self.spec.degree_out)
        total = x.new_zeros(*x.shape[:2], out)
        prefix = torch.ones_like(x[..., :1])
        for k, c in enumerate(coefficients):
            if k > 0:
                prefix = prefix.index_select(-1, self.get_buffer(f"parent{k}")) * x.index_select(
                    -1, self.get_buffer(f"last{k}")
                )
            slope = torch.bmm(x, c).unflatten(-1, (out, -1))
            total = total + (slope @ prefix.unsqueeze(-1)).squeeze(-1)
        return total


def _polynomials(spec: Spec, l3: int, order: int) -> np.ndarray:
    """Couplings of one order to l3 as [paths, lm_in · (2 l3 + 1) · prefixes]: last factor × component × earlier factors."""
    size = dim(spec.degree_in)
    prefixes = list(combinations_with_replacement(range(size), order - 1))
    position = {prefix: i for i, prefix in enumerate(prefixes)}
    blocks = [np.zeros((0, size * (2 * l3 + 1) * len(prefixes)))]
    for factors in dict.fromkeys(f for f, l, _ in spec.power_paths if l == l3 and len(f) == order):
        terms = monomials(factors)
        block = np.zeros((len(couplings(factors, l3)), size, 2 * l3 + 1, len(prefixes)))
        last = [term[-1] for term in terms]
        earlier = [position[term[:-1]] for term in terms]
        block[:, last, :, earlier] = couplings(factors, l3).transpose(2, 0, 1)
        blocks.append(block.reshape(len(block), -1))
    return np.concatenate(blocks)
