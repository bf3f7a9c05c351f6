"""Convolution in the edge frame: rotate the polar axis onto the edge, where the filter is invariant to rotations about it.

There a message couples only the orders m and -m, so a path (l1, l2, l3) acts on degrees l1, l3 through one number per
|m| <= min(l1, l3): the cosine weight c_m for even l1 + l2 + l3, the sine weight s_m for odd,

    y_m = c_m x_m + s_m x_-m,    y_-m = c_m x_-m - s_m x_m    (m > 0),    y_0 = c_0 x_0,

and the sum over l2 is done once on the weights. Source: Passaro and Zitnick 2023, arXiv:2302.03655.

Shapes: N nodes, E edges, C channels, W own weights, S weights in the edge frame; k = min(l, order) with order the least of the
degrees in and out, beyond which nothing couples. Components of degree l in the edge frame: orders 0 ... k, then -1 ... -k.
"""

from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from eqmol.ops.contract import Convolution, RadialWeight, sum_edges, unit
from eqmol.ops.spec import Spec
from eqmol.so3.coupling import wigner_3j
from eqmol.so3.frames import edge_frames
from eqmol.so3.wigner import wigner_matrices


class Block(NamedTuple):
    """Where the weights of one pair of degrees lie.

    Attributes:
        source, target: degrees l1, l3.
        k: highest order, min(l1, l3).
        cosine: first of the k + 1 cosine weights, or None.
        sine: first of the k sine weights, or None.
        sign: of the sine weights; -1 in the transposed map.
    """

    source: int
    target: int
    k: int
    cosine: int | None
    sine: int | None
    sign: int = 1


class Blocks(NamedTuple):
    """The linear map from components of all degrees in to those of all degrees out, given the weights."""

    degree_in: int
    degree_out: int
    num_weights: int
    blocks: tuple[Block, ...]

    @property
    def order(self) -> int:
        """Highest order that couples."""
        return min(self.degree_in, self.degree_out)

    def transposed(self) -> "Blocks":
        """The map from out to in with the same weights."""
        flipped = tuple(b._replace(source=b.target, target=b.source, sign=-b.sign) for b in self.blocks)
        return Blocks(self.degree_out, self.degree_in, self.num_weights, flipped)


@lru_cache(maxsize=256)
def edge_frame_blocks(spec: Spec) -> tuple[Blocks, np.ndarray]:
    """The blocks of a spec, and its path weights as weights in the edge frame.

    Returns:
        blocks, and [num_paths, S] with the constants of the paths included.
    """
    blocks: list[Block] = []
    columns: list[np.ndarray] = []
    degrees = sorted({(l1, l3) for l1, _, l3 in spec.pair_paths})
    for l1, l3 in degrees:
        k = min(l1, l3)
        m = np.arange(k + 1)
        first: list[int | None] = [None, None]
        for odd in (0, 1):
            part = np.zeros((spec.num_paths, k + 1))
            for path, (a, l2, c) in enumerate(spec.pair_paths):
                if (a, c) == (l1, l3) and (l1 + l2 + l3) % 2 == odd:
                    filtered = wigner_3j(l1, l2, l3)[:, l2, :] * np.sqrt(2 * l2 + 1) * spec.path_normalization[path]
                    part[path] = filtered[l1 - m, l3 + m] if odd else filtered[l1 + m, l3 + m]
            if part.any():
                first[odd] = len(columns)
                columns.extend(part.T[odd:])  # the sine weight of m = 0 is zero
        blocks.append(Block(l1, l3, k, *first))
    return Blocks(spec.degree_in, spec.degree_out, len(columns), tuple(blocks)), np.stack(columns, axis=1)


@lru_cache(maxsize=256)
def _basis(spec: Spec, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Own weights -> weights in the edge frame, [W, S]."""
    _, paths = edge_frame_blocks(spec)
    return torch.tensor(spec.paths @ paths, dtype=dtype, device=device)


def _rows(features: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Components of order 0 ... k, 1 ... k and -1 ... -k."""
    highest = features.shape[-2] // 2
    return features[..., : k + 1, :], features[..., 1 : k + 1, :], features[..., highest + 1 : highest + 1 + k, :]


class Mix(torch.autograd.Function):
    """Apply weights [E, S, C] to the components of all degrees in, [E, 2k + 1, C] each -> the same of all degrees out.

    Bilinear: its derivatives are itself, transposed, and :class:`Pair`. So derivatives of every order exist.
    """

    @staticmethod
    def forward(blocks: Blocks, weight: Tensor, *features: Tensor) -> tuple[Tensor, ...]:
        shape = (weight.shape[0], weight.shape[-1])
        result = []
        for degree in range(blocks.degree_out + 1):
            k = min(degree, blocks.order)
            result.append(weight.new_zeros(shape[0], 2 * k + 1, shape[1]))
        for b in blocks.blocks:
            even, plus, minus = _rows(features[b.source], b.k)
            even_out, plus_out, minus_out = _rows(result[b.target], b.k)
            if b.cosine is not None:
                even_out.addcmul_(weight[:, b.cosine : b.cosine + b.k + 1], even)
                minus_out.addcmul_(weight[:, b.cosine + 1 : b.cosine + b.k + 1], minus)
            if b.sine is not None:
                sine = weight[:, b.sine : b.sine + b.k]
                plus_out.addcmul_(sine, minus, value=b.sign)
                minus_out.addcmul_(sine, plus, value=-b.sign)
        return tuple(result)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.blocks = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, *features = ctx.saved_tensors
        grad_weight = Pair.apply(ctx.blocks, *features, *grads) if ctx.needs_input_grad[1] else None
        if not any(ctx.needs_input_grad[2:]):
            return None, grad_weight, *(None for _ in features)
        return None, grad_weight, *Mix.apply(ctx.blocks.transposed(), weight, *grads)


class Pair(torch.autograd.Function):
    """Derivative of <out, Mix(weight, in)> by the weights: components in and out, [E, 2k + 1, C] each -> [E, S, C]."""

    @staticmethod
    def forward(blocks: Blocks, *features: Tensor) -> Tensor:
        before, after = features[: blocks.degree_in + 1], features[blocks.degree_in + 1 :]
        edges, _, channels = features[0].shape
        weight = features[0].new_empty(edges, blocks.num_weights, channels)
        for b in blocks.blocks:
            even, plus, minus = _rows(before[b.source], b.k)
            even_out, plus_out, minus_out = _rows(after[b.target], b.k)
            if b.cosine is not None:
                torch.mul(even, even_out, out=weight[:, b.cosine : b.cosine + b.k + 1])
                weight[:, b.cosine + 1 : b.cosine + b.k + 1].addcmul_(minus, minus_out)
            if b.sine is not None:
                sine = weight[:, b.sine : b.sine + b.k]
                torch.mul(minus, plus_out, out=sine)
                sine.addcmul_(plus, minus_out, value=-1)
                if b.sign < 0:
                    sine.neg_()
        return weight

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.blocks = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        split = ctx.blocks.degree_in + 1
        before, after = ctx.saved_tensors[:split], ctx.saved_tensors[split:]
        needed = ctx.needs_input_grad[1:]
        nothing = (None,) * len(before), (None,) * len(after)
        grad_before = Mix.apply(ctx.blocks.transposed(), grad, *after) if any(needed[:split]) else nothing[0]
        grad_after = Mix.apply(ctx.blocks, grad, *before) if any(needed[split:]) else nothing[1]
        return None, *grad_before, *grad_after


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
        inward = []
        for l, matrix in enumerate(wigner_matrices(edge_frames(unit(vectors)), self.degree, self.blocks.order)):
            k = min(l, self.blocks.order)
            order = torch.tensor([*range(k, 2 * k + 1), *range(k - 1, -1, -1)], device=vectors.device)
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
        features = [
            part.index_select(0, senders) if l == 0 else geometry[l] @ part.index_select(0, senders)
            for l, part in enumerate(x.split([2 * l + 1 for l in range(self.spec.degree_in + 1)], dim=1))
        ]
        mixed = Mix.apply(self.blocks, self.edge_frame_weights(weight), *features)
        summed = [
            sum_edges(part if l == 0 else geometry[l].mT @ part, receivers, num_receivers) for l, part in enumerate(mixed)
        ]
        return torch.cat(summed, dim=1)

    def edge_frame_weights(self, weight: RadialWeight) -> Tensor:
        """Weights in the edge frame, [E, S, C]."""
        basis = _basis(self.spec, weight.matrix.dtype, weight.matrix.device)
        return weight.rebased(basis).dense()
