"""Products in the edge frame, where components of order m meet only those of order m and -m.

A rotation R of every edge, restricted to the orders that couple, takes features into the frame, x' = R x; there

    y'_m = c_m x'_m + s_m x'_-m,    y'_-m = c_m x'_-m - s_m x'_m    (m > 0),    y'_0 = c_0 x'_0

for every pair of degrees (l1, l3), summed over l1, with weights c and s of their own; the message is Rᵀ y'.

Features are a sequence of tensors, each of one degree; models have one of every degree, others may have several of a degree.

Shapes: e edges of a chunk, C channels, S weights. In the frame a tensor of degree l is [e, 2k + 1, C], k = min(l, order), of
orders 0 ... k, then -1 ... -k. Rotations are flat, [e, Σ over degrees l of (2k + 1) (2l + 1)], and hold the 1 of degree 0, without
which the message would not be linear in them.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

#: Below this many multiplications per edge ``torch.bmm`` uses a plain loop on the CPU instead of the matrix library.
BMM_LOOP = 400


class Block(NamedTuple):
    """The weights of one pair of tensors: of the cosines 0 ... k if there are any, then of the sines 1 ... k."""

    source: int
    target: int
    k: int
    cosine: bool
    sine: bool


class Term(NamedTuple):
    """target += sign · weight · source, elementwise; ``first`` of those that have these weights."""

    target: Tensor
    weight: Tensor
    source: Tensor
    sign: int
    first: bool


class EdgeFrame(NamedTuple):
    """The message as a form in weights [e, S, C], features, their rotations, those of the result, and the cotangent."""

    degrees_in: Sequence[int]
    degrees_out: Sequence[int]
    order: int  # highest that couples
    blocks: tuple[Block, ...]

    def rotation_shapes(self, degrees: Sequence[int]) -> list[tuple[int, int]]:
        """Rows and columns of the rotation of every degree up to the highest of ``degrees``."""
        return [(2 * min(l, self.order) + 1, 2 * l + 1) for l in range(max(degrees) + 1)]

    def rotation_size(self, degrees: Sequence[int]) -> int:
        """Entries of these rotations."""
        return sum(rows * columns for rows, columns in self.rotation_shapes(degrees))

    def bind(self, arguments: Sequence[Tensor]) -> Callable[[Sequence[int]], list[Tensor]]:
        return _Bound(self, *arguments).derivatives


class Side:
    """Features or the cotangent, which stand on either side of the weights, with their rotation and frame.

    Attributes:
        inside: the features in the frame.
        mixed: the features of the other side after the weights, which have the degrees of this side.
    """

    def __init__(
        self, degrees: Sequence[int], shapes: list[tuple[int, int]], rotation: Tensor, outside: Tensor
    ) -> None:
        edges, _, channels = outside.shape
        parts = rotation.split([rows * columns for rows, columns in shapes], dim=1)
        self.degrees = degrees
        self.matrices = [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]
        self.outside = outside.split([2 * l + 1 for l in degrees], dim=1)
        rows = [shapes[l][0] for l in degrees]
        self.inside = [outside.new_empty(edges, r, channels) for r in rows]
        self.all_mixed = outside.new_empty(edges * sum(rows), channels)
        self.mixed = [m.view(edges, -1, channels) for m in self.all_mixed.split([edges * r for r in rows])]

    def enter(self) -> None:
        for l, outside, inside in zip(self.degrees, self.outside, self.inside, strict=True):
            matmul(self.matrices[l], outside, inside)

    def put(self, mixed: Tensor) -> None:
        """Set ``mixed`` [e, rows, C]."""
        rows = [part.shape[1] for part in self.mixed]
        for own, part in zip(self.mixed, mixed.split(rows, dim=1), strict=True):
            own.copy_(part)

    def leave(self) -> Tensor:
        parts = [matmul(self.matrices[l].mT, mixed) for l, mixed in zip(self.degrees, self.mixed, strict=True)]
        return torch.cat(parts, dim=1)

    def by_rotation(self) -> Tensor:
        """Derivative of <mixed, rotated outside> by the rotation."""
        parts: list[Tensor | None] = [None] * len(self.matrices)
        for l, mixed, outside in zip(self.degrees, self.mixed, self.outside, strict=True):
            part, earlier = torch.bmm(mixed, outside.mT), parts[l]
            parts[l] = part if earlier is None else earlier + part
        found = [torch.zeros_like(m) if p is None else p for m, p in zip(self.matrices, parts, strict=True)]
        return torch.cat([part.flatten(1) for part in found], dim=1)


class _Bound:
    """The views of all blocks into the arguments of a chunk, made once and used for every chunk."""

    def __init__(self, frame: EdgeFrame, weight: Tensor, x: Tensor, inward: Tensor, outward: Tensor, v: Tensor) -> None:
        self.blocks, self.weight = frame.blocks, weight
        self.sender = Side(frame.degrees_in, frame.rotation_shapes(frame.degrees_in), inward, x)
        self.receiver = Side(frame.degrees_out, frame.rotation_shapes(frame.degrees_out), outward, v)

    def derivatives(self, slots: Sequence[int]) -> list[Tensor]:
        if set(slots) - {1, 2}:
            self.sender.enter()
        if set(slots) - {3, 4}:
            self.receiver.enter()
        if not {1, 2}.isdisjoint(slots):
            _accumulate(self.sender.all_mixed, self.to_sender)
        if not {3, 4}.isdisjoint(slots):
            _accumulate(self.receiver.all_mixed, self.to_receiver)
        found = (
            self._by_weight,
            self.sender.leave,
            self.sender.by_rotation,
            self.receiver.by_rotation,
            self.receiver.leave,
        )
        return [found[slot]() for slot in slots]

    @cached_property
    def to_receiver(self) -> list[Term]:
        return list(_terms(self.blocks, self.weight, self.sender.inside, self.receiver.mixed))

    @cached_property
    def to_sender(self) -> list[Term]:
        return list(_terms(self.blocks, self.weight, self.sender.mixed, self.receiver.inside, transposed=True))

    def _by_weight(self) -> Tensor:
        for target, weight, source, sign, first in self.pairs:
            if first:
                torch.mul(target, source, out=weight)
            else:
                weight.addcmul_(target, source, value=sign)
        return self.weight_derivative

    @cached_property
    def weight_derivative(self) -> Tensor:
        return torch.empty_like(self.weight)

    @cached_property
    def pairs(self) -> list[Term]:
        return list(_terms(self.blocks, self.weight_derivative, self.sender.inside, self.receiver.inside))


def _accumulate(total: Tensor, terms: list[Term]) -> None:
    """Set ``total``, of which the targets are parts."""
    total.zero_()
    for target, weight, source, sign, _ in terms:
        target.addcmul_(weight, source, value=sign)


def _terms(
    blocks: Sequence[Block], weight: Tensor, sender: list[Tensor], receiver: list[Tensor], transposed: bool = False
) -> Iterator[Term]:
    """The products of all blocks, from sender to receiver or, transposed, back."""
    pieces = iter(weight.split([size for b in blocks for size in [b.k + 1] * b.cosine + [b.k] * b.sine], dim=1))
    for b in blocks:
        source, target = sender[b.source], receiver[b.target]
        if transposed:
            source, target = target, source
        x_even, x_plus, x_minus = _orders(source, b.k)
        y_even, y_plus, y_minus = _orders(target, b.k)
        if b.cosine:
            cosine = next(pieces)
            yield Term(y_even, cosine, x_even, 1, True)
            if b.k:
                yield Term(y_minus, cosine[:, 1:], x_minus, 1, False)
        if b.sine:
            sine = next(pieces)
            yield Term(y_plus, sine, x_minus, -1 if transposed else 1, True)
            yield Term(y_minus, sine, x_plus, 1 if transposed else -1, False)


def _orders(frame: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Components of order 0 ... k, 1 ... k and -1 ... -k."""
    minus = frame.shape[1] // 2 + 1
    return frame[:, : k + 1], frame[:, 1 : k + 1], frame[:, minus : minus + k]


def matmul(matrix: Tensor, features: Tensor, out: Tensor | None = None) -> Tensor:
    """Product of [e, a, b] and [e, b, C]."""
    _, rows, columns = matrix.shape
    if features.device.type != "cpu" or rows * columns * features.shape[-1] >= BMM_LOOP:
        return torch.bmm(matrix, features, out=out)
    result = torch.mul(matrix[:, :, :1], features[:, :1], out=out)
    for i in range(1, columns):
        result.addcmul_(matrix[:, :, i : i + 1], features[:, i : i + 1])
    return result
