"""Sums of messages over edges, a chunk of edges at a time, so that nothing that has edges and channels is ever kept.

The message of one edge is a multilinear form (see :mod:`eqmol.ops.multilinear`) in its weights, the sender's features, tensors
of its geometry and the cotangent of the result. Weights are made from the radial network's, features gathered and results
summed within the chunk, also in derivatives, which compute the message anew.

Shapes: N nodes, E edges, e edges of a chunk, C channels, H hidden radial features, S weights of the message.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from eqmol.ops.chunks import EDGES
from eqmol.ops.contract import RadialWeight
from eqmol.ops.multilinear import partials


class Message(Protocol):
    """A form in weights [e, S, C], features [e, lm_in, C], tensors of the geometry [e, ...] and the cotangent [e, lm_out, C]."""

    def bind(self, arguments: Sequence[Tensor]) -> Callable[[Sequence[int]], Sequence[Tensor]]:
        """What computes the derivatives by the arguments of the given slots from what the other arguments then hold.

        The results are overwritten by the next call.
        """


class Nodes(NamedTuple):
    """Senders and receivers [E] of the edges, and the number of receivers.

    Senders may be [k, E]: an edge then sends the sum of the features of k nodes.
    """

    senders: Tensor
    receivers: Tensor
    num_receivers: int


def sum_messages(
    message: Message,
    rows: int,
    x: Tensor,
    geometry: Sequence[Tensor],
    weight: RadialWeight | Tensor,
    nodes: Nodes | None = None,
) -> Tensor:
    """Sum over the edges of every receiver, or the message of every edge.

    Args:
        message: what is summed.
        rows: components of the result.
        x: [N, lm_in, C].
        geometry: tensors [E, ...].
        weight: S weights per edge, [E, S, C] if they are made already.
        nodes: by default x and the result have one row per edge.

    Returns:
        [num_receivers, rows, C].
    """
    own = [weight] if isinstance(weight, Tensor) else [weight.hidden, weight.matrix]
    number = len(own[0]) if nodes is None else nodes.num_receivers
    form = _EdgeSum(message, nodes, (number, rows, x.shape[-1]), isinstance(weight, RadialWeight))
    arguments = [*own, x, *geometry, None]
    return partials(form, [len(arguments) - 1], arguments)[0]


@dataclass(frozen=True)
class _EdgeSum:
    """The form of the sum in hidden and matrix, or weights, then features, geometry and cotangent."""

    message: Message
    nodes: Nodes | None
    shape: tuple[int, int, int]
    is_factored: bool  # weights are hidden @ matrix

    def partials(self, slots: Sequence[int], arguments: Sequence[Tensor | None]) -> list[Tensor]:
        arguments = [None if a is None else a.contiguous() for a in arguments]
        shapes = [self.shape if a is None else a.shape for a in arguments]
        like = next(a for a in arguments if a is not None)
        # hidden and matrix are one argument of the message, its weights
        shift = 1 if self.is_factored else 0
        summed = {slot for slot in slots if self._is_summed(slot, len(arguments))}
        result = {slot: (like.new_zeros if slot in summed else like.new_empty)(shapes[slot]) for slot in slots}
        wanted = sorted({max(slot - shift, 0) for slot in slots})
        sizes = [shape[1:] for shape in shapes[shift:]]
        bound: dict[int, tuple[list[Tensor], Callable[[Sequence[int]], Sequence[Tensor]]]] = {}
        for rows in self._chunks(like, shapes[0][0], sizes):
            edges = rows.stop - rows.start
            if edges not in bound:
                buffers = [like.new_empty(edges, *size) for size in sizes]
                bound[edges] = buffers, self.message.bind(buffers)
            own, derivatives = bound[edges]
            indices = [self._index(i, len(own), rows) for i in range(len(own))]
            for i, (index, buffer) in enumerate(zip(indices, own, strict=True)):
                if wanted == [i]:
                    continue
                if i == 0 and self.is_factored:
                    hidden, flat = _factors(arguments)
                    torch.mm(hidden[rows], flat, out=buffer.view(edges, -1))
                else:
                    _take(arguments[i + shift], index, buffer)
            for i, part in zip(wanted, derivatives(wanted), strict=True):
                if i > 0 or not self.is_factored:
                    _add(result[i + shift], indices[i], part)
                    continue
                hidden, flat = _factors(arguments)
                if 0 in result:
                    torch.mm(part.flatten(1), flat.T, out=result[0][rows])
                if 1 in result:
                    result[1].view_as(flat).addmm_(hidden[rows].T, part.flatten(1))
        return [result[slot] for slot in slots]

    def _is_summed(self, slot: int, number: int) -> bool:
        """Whether a derivative is a sum over edges; others have a row per edge."""
        if self.is_factored and slot <= 1:
            return slot == 1
        return self.nodes is not None and slot in (1 + self.is_factored, number - 1)

    def _index(self, i: int, number: int, rows: slice) -> Tensor | slice:
        """Where the edges find the arguments of the message: features (i = 1) and the cotangent (the last) at nodes."""
        if self.nodes is None or i not in (1, number - 1):
            return rows
        return self.nodes.senders[..., rows] if i == 1 else self.nodes.receivers[rows]

    def _chunks(self, like: Tensor, edges: int, sizes: Sequence[Sequence[int]]) -> Iterator[slice]:
        """Slices of edges of equal length, but for the last."""
        (weights, channels), (rows, _) = sizes[:2]
        per_edge = weights * channels + 2 * (rows + self.shape[1]) * self.shape[2]
        size = -(-edges // max(-(-edges * per_edge // EDGES.numbers(like)), 1))
        return (slice(first, min(first + size, edges)) for first in range(0, edges, max(size, 1)))


def _factors(arguments: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
    """Hidden [E, H] and matrix [H, S · C]."""
    hidden, matrix = arguments[:2]
    assert hidden is not None
    assert matrix is not None
    return hidden, matrix.flatten(1)


def _take(source: Tensor | None, rows: Tensor | slice, out: Tensor) -> None:
    assert source is not None
    if isinstance(rows, slice):
        out.copy_(source[rows])
        return
    first, *others = torch.atleast_2d(rows)
    torch.index_select(source, 0, first, out=out)
    for other in others:
        out.add_(source.index_select(0, other))


def _add(target: Tensor, rows: Tensor | slice, values: Tensor) -> None:
    if isinstance(rows, slice):
        target[rows] = values
        return
    for row in torch.atleast_2d(rows):
        target.index_add_(0, row, values)
