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

from eqmol.ops.contract import RadialWeight
from eqmol.ops.multilinear import partials

#: Numbers that a chunk has at a time on the CPU: they stay in the cache of one core. Other devices want large chunks.
CHUNK, CHUNK_ELSEWHERE = 1 << 20, 1 << 26


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
    weight: RadialWeight,
    nodes: Nodes | None = None,
) -> Tensor:
    """Sum over the edges of every receiver, or the message of every edge.

    Args:
        message: what is summed.
        rows: components of the result.
        x: [N, lm_in, C].
        geometry: tensors [E, ...].
        weight: S weights per edge.
        nodes: by default x and the result have one row per edge.

    Returns:
        [num_receivers, rows, C].
    """
    number = len(weight.hidden) if nodes is None else nodes.num_receivers
    form = _EdgeSum(message, nodes, (number, rows, x.shape[-1]))
    arguments = [weight.hidden, weight.matrix, x, *geometry, None]
    return partials(form, [len(arguments) - 1], arguments)[0]


@dataclass(frozen=True)
class _EdgeSum:
    """The form of the sum in hidden, matrix, features, geometry and cotangent."""

    message: Message
    nodes: Nodes | None
    shape: tuple[int, int, int]

    def partials(self, slots: Sequence[int], arguments: Sequence[Tensor | None]) -> list[Tensor]:
        hidden, matrix, *others = (None if a is None else a.contiguous() for a in arguments)
        assert hidden is not None
        assert matrix is not None
        flat = matrix.flatten(1)
        shapes = [self.shape if a is None else a.shape for a in arguments]
        result = {slot: hidden.new_zeros(shapes[slot]) for slot in slots}
        # hidden and matrix are one argument of the message, its weights
        wanted = sorted({max(slot - 1, 0) for slot in slots})
        bound: dict[int, tuple[list[Tensor], Callable[[Sequence[int]], Sequence[Tensor]]]] = {}
        for rows in self._chunks(hidden, flat, shapes):
            edges = rows.stop - rows.start
            if edges not in bound:
                buffers = [hidden.new_empty(edges, *shape[1:]) for shape in (matrix.shape, *shapes[2:])]
                bound[edges] = buffers, self.message.bind(buffers)
            (weight, *own), derivatives = bound[edges]
            indices = [self._index(i, len(others), rows) for i in range(len(others))]
            if wanted != [0]:
                torch.mm(hidden[rows], flat, out=weight.view(edges, -1))
            for i, (source, index, buffer) in enumerate(zip(others, indices, own, strict=True)):
                if wanted != [i + 1]:
                    _take(source, index, buffer)
            for i, part in zip(wanted, derivatives(wanted), strict=True):
                if i > 0:
                    _add(result[i + 1], indices[i - 1], part)
                    continue
                if 0 in result:
                    torch.mm(part.flatten(1), flat.T, out=result[0][rows])
                if 1 in result:
                    result[1].view_as(flat).addmm_(hidden[rows].T, part.flatten(1))
        return [result[slot] for slot in slots]

    def _index(self, i: int, number: int, rows: slice) -> Tensor | slice:
        """Where the edges find features (i = 0), geometry and the cotangent (the last)."""
        if self.nodes is None or 0 < i < number - 1:
            return rows
        return self.nodes.senders[..., rows] if i == 0 else self.nodes.receivers[rows]

    def _chunks(self, hidden: Tensor, flat: Tensor, shapes: Sequence[Sequence[int]]) -> Iterator[slice]:
        """Slices of edges of equal length, but for the last."""
        per_edge = flat.shape[1] + 2 * (shapes[2][1] + self.shape[1]) * self.shape[2]
        limit = CHUNK if hidden.device.type == "cpu" else CHUNK_ELSEWHERE
        edges = hidden.shape[0]
        size = -(-edges // max(-(-edges * per_edge // limit), 1))
        return (slice(first, min(first + size, edges)) for first in range(0, edges, max(size, 1)))


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
