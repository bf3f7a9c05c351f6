"""Products in the edge frame, where components of order m meet only those of order m and -m.

With weights W = hidden · matrix, [E, S, C], which are made a chunk of edges at a time and never kept:

    y_m = c_m x_m + s_m x_-m,    y_-m = c_m x_-m - s_m x_m    (m > 0),    y_0 = c_0 x_0

for every pair of degrees (l1, l3) and m <= min(l1, l3), summed over l1. The product is linear in hidden, matrix and features,
so its derivatives of every order are products of the same kind: :class:`Contract` and :class:`ContractGradient` are closed
under differentiation.

Shapes: E edges, C channels, H hidden, S weights. Features are one tensor [E, 2k + 1, C] per degree l, k = min(l, order), of
orders 0 ... k, then -1 ... -k.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

#: Number of weights made at a time: they stay in the cache.
CHUNK_ELEMENTS = 1 << 20


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
    order: int  # highest that couples
    num_weights: int
    blocks: tuple[Block, ...]

    def transposed(self) -> "Blocks":
        """The map from out to in with the same weights."""
        flipped = tuple(b._replace(source=b.target, target=b.source, sign=-b.sign) for b in self.blocks)
        return Blocks(self.degree_out, self.degree_in, self.order, self.num_weights, flipped)

    def empty(self, like: Tensor, channels: int) -> list[Tensor]:
        """Features of all degrees out for the edges of ``like`` [E, ...], not initialised."""
        widths = [2 * min(l, self.order) + 1 for l in range(self.degree_out + 1)]
        return [like.new_empty(like.shape[0], width, channels) for width in widths]


def contract(blocks: Blocks, hidden: Tensor, matrix: Tensor, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Features of all degrees out, from hidden [E, H], matrix [H, S, C] and features of all degrees in."""
    return Contract.apply(blocks, hidden, matrix, *features)


class Contract(torch.autograd.Function):
    """See :func:`contract`."""

    @staticmethod
    def forward(blocks: Blocks, hidden: Tensor, matrix: Tensor, *features: Tensor) -> tuple[Tensor, ...]:
        matrix = matrix.contiguous()
        result = blocks.empty(hidden, matrix.shape[-1])
        for rows in _chunks(hidden, matrix):
            _mix(blocks, _weights(hidden[rows], matrix), [f[rows] for f in features], [y[rows] for y in result])
        return tuple(result)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.blocks = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, matrix, *features = ctx.saved_tensors
        needs = (ctx.needs_input_grad[1], ctx.needs_input_grad[2], any(ctx.needs_input_grad[3:]))
        return None, *_gradient(ctx.blocks, needs, hidden, matrix, features, grads)


class ContractGradient(torch.autograd.Function):
    """Derivatives of <grads, contract(hidden, matrix, features)> by those of hidden, matrix and features that are needed."""

    @staticmethod
    def forward(
        blocks: Blocks, needs: tuple[bool, bool, bool], hidden: Tensor, matrix: Tensor, *features: Tensor
    ) -> tuple[Tensor, ...]:
        split = blocks.degree_in + 1
        before, after = features[:split], features[split:]
        back = blocks.transposed()
        # flattened per chunk below, without a copy; zeros_like would otherwise keep permuted strides
        matrix = matrix.contiguous()
        grad_hidden, grad_matrix = hidden.new_empty(hidden.shape), torch.zeros_like(matrix)
        grad_features = back.empty(hidden, matrix.shape[-1]) if needs[2] else []
        flat = matrix.flatten(1)
        for rows in _chunks(hidden, matrix):
            x, y = [f[rows] for f in before], [f[rows] for f in after]
            if needs[2]:
                _mix(back, _weights(hidden[rows], matrix), y, [g[rows] for g in grad_features])
            if needs[0] or needs[1]:
                grad_weight = _pair(blocks, x, y).flatten(1)
            if needs[0]:
                torch.mm(grad_weight, flat.T, out=grad_hidden[rows])
            if needs[1]:
                grad_matrix.flatten(1).addmm_(hidden[rows].T, grad_weight)
        return *((grad_hidden,) if needs[0] else ()), *((grad_matrix,) if needs[1] else ()), *grad_features

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.blocks, ctx.needs = inputs[:2]
        ctx.save_for_backward(*inputs[2:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        blocks = ctx.blocks
        hidden, matrix, *features = ctx.saved_tensors
        split = blocks.degree_in + 1
        before, after = features[:split], features[split:]
        incoming = iter(grads)
        by_hidden = next(incoming) if ctx.needs[0] else None
        by_matrix = next(incoming) if ctx.needs[1] else None
        by_features = _filled(list(incoming), before)
        needs_hidden, needs_matrix = ctx.needs_input_grad[2:4]
        needs_before, needs_after = any(ctx.needs_input_grad[4 : 4 + split]), any(ctx.needs_input_grad[4 + split :])

        # the form with each of its arguments replaced by what it was differentiated by
        terms = []
        if by_hidden is not None:
            terms.append((by_hidden, matrix, before, (False, needs_matrix, needs_before)))
        if by_matrix is not None:
            terms.append((hidden, by_matrix, before, (needs_hidden, False, needs_before)))
        if by_features is not None:
            terms.append((hidden, matrix, by_features, (needs_hidden, needs_matrix, False)))
        result: list[Tensor | None] = [None] * (2 + len(features))
        for h, m, x, needs in terms:
            parts = [*_gradient(blocks, needs, h, m, x, after)]
            parts += contract(blocks, h, m, x) if needs_after else [None] * len(after)
            result = [_sum(total, part) for total, part in zip(result, parts, strict=True)]
        return None, None, *result


def _gradient(
    blocks: Blocks,
    needs: tuple[bool, bool, bool],
    hidden: Tensor,
    matrix: Tensor,
    before: Sequence[Tensor],
    after: Sequence[Tensor],
) -> list[Tensor | None]:
    """:class:`ContractGradient` with None for what is not needed: hidden, matrix, features of every degree in."""
    if not any(needs):
        return [None] * (2 + len(before))
    found = iter(ContractGradient.apply(blocks, needs, hidden, matrix, *before, *after))
    return [next(found) if needed else None for needed in (*needs[:2], *(needs[2] for _ in before))]


def _filled(grads: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor] | None:
    if all(grad is None for grad in grads):
        return None
    return [torch.zeros_like(x) if grad is None else grad for grad, x in zip(grads, like, strict=True)]


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b


def _chunks(hidden: Tensor, matrix: Tensor) -> Iterator[slice]:
    size = max(32, CHUNK_ELEMENTS // matrix[0].numel())
    return (slice(first, first + size) for first in range(0, hidden.shape[0], size))


def _weights(hidden: Tensor, matrix: Tensor) -> Tensor:
    return (hidden @ matrix.flatten(1)).unflatten(-1, matrix.shape[1:])


def _rows(features: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Components of order 0 ... k, 1 ... k and -1 ... -k."""
    minus = features.shape[1] // 2 + 1
    return features[:, : k + 1], features[:, 1 : k + 1], features[:, minus : minus + k]


def _mix(blocks: Blocks, weight: Tensor, features: Sequence[Tensor], result: Sequence[Tensor]) -> None:
    """Write the product of weight [E, S, C] and features into ``result``."""
    for y in result:
        y.zero_()
    for b in blocks.blocks:
        x_even, x_plus, x_minus = _rows(features[b.source], b.k)
        y_even, y_plus, y_minus = _rows(result[b.target], b.k)
        if b.cosine is not None:
            cosine = weight[:, b.cosine : b.cosine + b.k + 1]
            y_even.addcmul_(cosine, x_even)
            y_minus.addcmul_(cosine[:, 1:], x_minus)
        if b.sine is not None:
            sine = weight[:, b.sine : b.sine + b.k]
            y_plus.addcmul_(sine, x_minus, value=b.sign)
            y_minus.addcmul_(sine, x_plus, value=-b.sign)


def _pair(blocks: Blocks, before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
    """Derivative of <after, product of weight and before> by the weight, [E, S, C]."""
    edges, _, channels = before[0].shape
    weight = before[0].new_empty(edges, blocks.num_weights, channels)
    for b in blocks.blocks:
        x_even, x_plus, x_minus = _rows(before[b.source], b.k)
        y_even, y_plus, y_minus = _rows(after[b.target], b.k)
        if b.cosine is not None:
            cosine = weight[:, b.cosine : b.cosine + b.k + 1]
            torch.mul(x_even, y_even, out=cosine)
            cosine[:, 1:].addcmul_(x_minus, y_minus)
        if b.sine is not None:
            sine = weight[:, b.sine : b.sine + b.k]
            torch.mul(x_minus, y_plus, out=sine)
            sine.addcmul_(x_plus, y_minus, value=-1)
            if b.sign < 0:
                sine.neg_()
    return weight
