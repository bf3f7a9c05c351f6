"""Convolution in the edge frame: rotate the polar axis onto the edge, where the filter is invariant to rotations about it.

There a path (l1, l2, l3) acts on degrees l1 and l3 through one number per order |m| <= min(l1, l3), the cosine weight for even
l1 + l2 + l3 and the sine weight for odd, and the sum over l2 is done once on the weights.

Source: Passaro and Zitnick 2023, arXiv:2302.03655.

Shapes: N nodes, E edges, C channels, W own weights, S weights in the edge frame; k = min(l, order) with order the least of the
degrees in and out, beyond which nothing couples.
"""

from collections.abc import Hashable, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from eqmol.ops.contract import Convolution, RadialWeight, sum_edges, unit
from eqmol.ops.rotate import rotate
from eqmol.ops.so2 import Block, Blocks, contract
from eqmol.ops.spec import Spec
from eqmol.so3.frames import edge_frames, polar_coupling
from eqmol.so3.wigner import wigner_matrices


class ESCNConvolution(Convolution):
    """Any convolution, in the edge frame: O(L³) per edge and channel."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.blocks, _ = edge_frame_blocks(spec)
        self.degree = max(spec.degree_in, spec.degree_out)

    @property
    def geometry_key(self) -> Hashable:
        return type(self), self.degree, self.blocks.order

    def geometry(self, vectors: Tensor) -> list[Tensor]:
        """Rotations into the edge frame, per degree [E, 2k + 1, 2l + 1]."""
        matrices = wigner_matrices(edge_frames(unit(vectors)), self.degree, self.blocks.order)
        inward = []
        for matrix in matrices:
            k = matrix.shape[-1] // 2
            order = torch.tensor([*range(k, 2 * k + 1), *range(k - 1, -1, -1)], device=matrix.device)
            inward.append(matrix.mT.index_select(-2, order))
        return inward

    def forward(
        self,
        x: Tensor,
        geometry: Sequence[Tensor],
        weight: RadialWeight,
        senders: Tensor,
        receivers: Tensor,
        num_receivers: int,
    ) -> Tensor:
        parts = x.split([2 * l + 1 for l in range(self.spec.degree_in + 1)], dim=1)
        scalars, *sent = (part.contiguous().index_select(0, senders) for part in parts)
        # degree 0 is the same in every frame
        rotated = [scalars, *(rotate(inward, part) for inward, part in zip(geometry[1:], sent, strict=False))]
        basis = _basis(self.spec, weight.matrix.dtype, weight.matrix.device)
        scalars, *mixed = contract(self.blocks, *weight.rebased(basis), rotated)
        messages = [scalars, *(rotate(inward.mT, part) for inward, part in zip(geometry[1:], mixed, strict=False))]
        return torch.cat([sum_edges(message, receivers, num_receivers) for message in messages], dim=1)


@lru_cache(maxsize=256)
def edge_frame_blocks(spec: Spec) -> tuple[Blocks, np.ndarray]:
    """The blocks of a spec, and its path weights as weights in the edge frame.

    Returns:
        blocks, and [num_paths, S] with the constants of the paths included.
    """
    order = min(spec.degree_in, spec.degree_out)
    order = order if spec.order_max is None else spec.order_max
    blocks: list[Block] = []
    columns: list[np.ndarray] = []
    for l1, l3 in sorted({(l1, l3) for l1, _, l3 in spec.pair_paths}):
        k = min(l1, l3, order)
        first: list[int | None] = [None, None]
        for odd in (0, 1):
            part = np.zeros((spec.num_paths, k + 1))
            for path, (a, l2, c) in enumerate(spec.pair_paths):
                if (a, c) == (l1, l3) and (l1 + l2 + l3) % 2 == odd:
                    part[path] = polar_coupling(l1, l2, l3)[: k + 1] * spec.path_normalization[path]
            if part[:, odd:].any():
                first[odd] = len(columns)
                columns.extend(part.T[odd:])  # the sine weight of m = 0 is zero
        blocks.append(Block(l1, l3, k, first[0], first[1]))
    return Blocks(spec.degree_in, spec.degree_out, order, len(columns), tuple(blocks)), np.stack(columns, axis=1)


@lru_cache(maxsize=256)
def _basis(spec: Spec, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Own weights -> weights in the edge frame, [W, S]."""
    _, paths = edge_frame_blocks(spec)
    return torch.tensor(spec.paths @ paths, dtype=dtype, device=device)
