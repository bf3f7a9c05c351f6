"""Convolution in the edge frame: rotate the polar axis onto the edge, where the filter is invariant to rotations about it.

There a path (l1, l2, l3) acts on degrees l1 and l3 through one number per order |m| <= min(l1, l3), the cosine weight for even
l1 + l2 + l3 and the sine weight for odd, and the sum over l2 is done once on the weights.

Source: Passaro and Zitnick 2023, arXiv:2302.03655.

Shapes: N nodes, E edges, C channels, W own weights, S weights in the edge frame.
"""

from collections.abc import Hashable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from eqmol.ops.contract import Convolution, Mixing, RadialWeight, side_by_side, unit
from eqmol.ops.edges import Nodes, sum_messages
from eqmol.ops.so2 import Block, EdgeFrame
from eqmol.ops.spec import MAX_DEGREE, Spec
from eqmol.so3.frames import edge_frames, polar_coupling
from eqmol.so3.layout import dim
from eqmol.so3.wigner import wigner_matrices


class ESCNConvolution(Convolution):
    """Any convolution, in the edge frame: O(L³) per edge and channel."""

    basis: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        blocks, paths = edge_frame_blocks(spec)
        self.add_table("basis", spec.paths @ paths)
        degrees_in, degrees_out = range(spec.degree_in + 1), [*range(spec.degree_out + 1)] * spec.num_blocks
        self.frame = EdgeFrame(degrees_in, degrees_out, spec.highest_order, blocks)
        self.degree = max(spec.degree_in, spec.degree_out)
        self.rotation_sizes = [self.frame.rotation_size(degrees) for degrees in (degrees_in, degrees_out)]

    @property
    def geometry_key(self) -> Hashable:
        return type(self), self.degree, self.frame.order

    def geometry(self, vectors: Tensor) -> Tensor:
        """Rotations into the edge frame, flat as in :mod:`eqmol.ops.so2`."""
        return inward_rotations(vectors, self.degree, self.frame.order)

    def forward(
        self, x: Tensor, geometry: Tensor, weight: RadialWeight, senders: Tensor, receivers: Tensor, num_receivers: int
    ) -> Tensor:
        return self._sum(x, geometry, weight, Nodes(senders, receivers, num_receivers))

    def message(self, x: Tensor, geometry: Tensor, weight: RadialWeight) -> Tensor:
        return self._sum(x, geometry, weight)

    def _sum(self, x: Tensor, geometry: Tensor, weight: RadialWeight, nodes: Nodes | None = None) -> Tensor:
        rotations = [geometry[:, :size] for size in self.rotation_sizes]
        rows = self.spec.num_blocks * dim(self.spec.degree_out)
        return side_by_side(self.spec, sum_messages(self.frame, rows, x, rotations, weight.rebased(self.basis), nodes))


class ESCNMixing(Mixing):
    """A matrix product per order."""

    scale: Tensor
    by_order_in: Tensor
    by_degree_out: Tensor
    factor: Tensor
    degree_in: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.degree, self.order = max(spec.degree_in, spec.degree_out), spec.highest_order
        self.add_table("scale", _frame_scale(spec)[:, None, None])
        rows_in, rows_out = (_rows(degree, self.order) for degree in (spec.degree_in, spec.degree_out))
        self.add_table("by_order_in", np.argsort([_by_order(*row) for row in rows_in]))
        self.add_table("by_degree_out", np.argsort(np.argsort([_by_order(*row) for row in rows_out])))
        degree_of_row = [(abs(m), l) for l, m in sorted(rows_in, key=lambda row: _by_order(*row))]
        self.add_table("factor", np.array([spec.own_factors.index(row) for row in degree_of_row]))
        self.add_table("degree_in", np.array([l for _, l in degree_of_row]))
        own = {key: row for row, key in enumerate(spec.own_weights)}
        for m in range(self.order + 1):
            pairs = [[(a, b) for b in range(m, spec.degree_out + 1)] for a in range(m, spec.degree_in + 1)]
            for odd in (0, 1) if m and spec.parity == "so3" else (0,):
                self.add_table(f"weights{m}{odd}", np.array([[own[a, b, odd, m] for a, b in row] for row in pairs]))

    @property
    def geometry_key(self) -> Hashable:
        return ESCNConvolution, self.degree, self.order

    def geometry(self, vectors: Tensor) -> Tensor:
        """As of :class:`ESCNConvolution`."""
        return inward_rotations(vectors, self.degree, self.order)

    def message(self, x: Tensor, geometry: Tensor, factors: RadialWeight | None, weight: Tensor) -> Tensor:
        rotations = self._rotations(geometry)
        parts = x.split([2 * l + 1 for l in range(self.spec.degree_in + 1)], dim=1)
        inside = torch.cat([rotation @ part for rotation, part in zip(rotations, parts, strict=False)], dim=1)
        inside = inside.index_select(1, self.by_order_in)
        if factors is not None:
            own = factors.dense()
            is_shared = own.shape[1] == self.spec.degree_in + 1
            inside = inside * own.index_select(1, self.degree_in if is_shared else self.factor)
        mixed = self._mix(inside, weight * self.scale).index_select(1, self.by_degree_out)
        parts = mixed.split([2 * min(l, self.order) + 1 for l in range(self.spec.degree_out + 1)], dim=1)
        return torch.cat([rotation.mT @ part for rotation, part in zip(rotations, parts, strict=False)], dim=1)

    def _rotations(self, geometry: Tensor) -> list[Tensor]:
        shapes = [(2 * min(l, self.order) + 1, 2 * l + 1) for l in range(self.degree + 1)]
        parts = geometry.split([rows * columns for rows, columns in shapes], dim=1)
        return [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]

    def _mix(self, x: Tensor, weight: Tensor) -> Tensor:
        """Rows of orders 0, 1, -1, 2, -2 ..., each of ascending degrees, by a matrix per order."""
        degree_in, degree_out = self.spec.degree_in, self.spec.degree_out
        sizes = [(degree_in + 1 - m) * (2 if m else 1) for m in range(self.order + 1)]
        results = []
        for m, part in enumerate(x.split(sizes, dim=1)):
            rows = degree_out + 1 - m
            signs = part.unflatten(1, (-1, degree_in + 1 - m)).flatten(2)
            cosine = (signs @ self._matrix(weight, m, 0)).unflatten(-1, (rows, -1))
            if m and self.spec.parity == "so3":
                sine = (signs @ self._matrix(weight, m, 1)).unflatten(-1, (rows, -1))
                cosine = cosine + torch.stack([sine[:, 1], -sine[:, 0]], dim=1)
            results.append(cosine.flatten(1, 2))
        return torch.cat(results, dim=1)

    def _matrix(self, weight: Tensor, m: int, odd: int) -> Tensor:
        """[(l1, C), (l3, C')]."""
        index = self.get_buffer(f"weights{m}{odd}")
        found = weight.index_select(0, index.flatten()).unflatten(0, index.shape)
        return found.transpose(1, 2).flatten(2).flatten(0, 1)


@lru_cache(maxsize=256)
def _frame_scale(spec: Spec) -> np.ndarray:
    """Constants [W] of the own weights of a mixing, which are those of the frame."""
    return np.diagonal(spec.paths @ edge_frame_blocks(spec)[1])


def _rows(degree: int, order: int) -> list[tuple[int, int]]:
    """Degree and order of the rows of the rotations of all degrees, as :mod:`eqmol.ops.so2` orders them."""
    rows = []
    for l in range(degree + 1):
        k = min(l, order)
        rows += [(l, m) for m in (*range(k + 1), *range(-1, -k - 1, -1))]
    return rows


def _by_order(l: int, m: int) -> int:
    """Rank of a row among those of orders 0, 1, -1, 2, -2 ..., each of ascending degrees."""
    return (2 * abs(m) + (m < 0)) * (MAX_DEGREE + 1) + l


def inward_rotations(vectors: Tensor, degree: int, order: int) -> Tensor:
    """Rotations of degrees 0 ... ``degree`` into the frames of edges [E, 3], kept to orders |m| <= ``order``.

    Flat as in :mod:`eqmol.ops.so2`: those of lower degrees come first.
    """
    inward = []
    for matrix in wigner_matrices(edge_frames(unit(vectors)), degree, order):
        k = matrix.shape[-1] // 2
        rows = torch.tensor([*range(k, 2 * k + 1), *range(k - 1, -1, -1)], device=matrix.device)
        inward.append(matrix.mT.index_select(-2, rows).flatten(1))
    return torch.cat(inward, dim=1)


@lru_cache(maxsize=256)
def edge_frame_blocks(spec: Spec) -> tuple[tuple[Block, ...], np.ndarray]:
    """The blocks of a spec, and its path weights as weights in the edge frame.

    Returns:
        blocks, and [num_paths, S] with the constants of the paths included.
    """
    blocks: list[Block] = []
    columns: list[np.ndarray] = []
    members = [(int(block), l1, l3) for block, (l1, _, l3) in zip(spec.path_blocks, spec.pair_paths, strict=True)]
    for block, l1, l3 in sorted(set(members)):
        k = min(l1, l3, spec.highest_order)
        found = [False, False]
        for odd in (0, 1):
            part = np.zeros((spec.num_paths, k + 1))
            for path, (_, l2, _) in enumerate(spec.pair_paths):
                if members[path] == (block, l1, l3) and (l1 + l2 + l3) % 2 == odd:
                    part[path] = polar_coupling(l1, l2, l3)[: k + 1] * spec.path_normalization[path]
            columns_here = part.T[odd:]  # the sine weight of m = 0 is zero
            if columns_here.any():
                found[odd] = True
                columns.extend(columns_here)
        blocks.append(Block(l1, block * (spec.degree_out + 1) + l3, k, *found))
    return tuple(blocks), np.stack(columns, axis=1)
