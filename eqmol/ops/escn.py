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

from eqmol.ops.contract import Convolution, RadialWeight, side_by_side, unit
from eqmol.ops.edges import Nodes, sum_messages
from eqmol.ops.so2 import Block, EdgeFrame
from eqmol.ops.spec import Spec
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
        self.frame = EdgeFrame(degrees_in, degrees_out, _highest_order(spec), blocks)
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


def _highest_order(spec: Spec) -> int:
    """Beyond which nothing couples."""
    return min(spec.degree_in, spec.degree_out) if spec.order_max is None else spec.order_max


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
        k = min(l1, l3, _highest_order(spec))
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
