"""Sums of messages over edges, a chunk of edges at a time, so that nothing that has edges and channels is ever kept.

The message of one edge is a multilinear form (see :mod:`eqmol.ops.multilinear`) in its weights, the sender's features, tensors
of its geometry and the cotangent of the result. Weights are made from the radial network's, features gathered and results
summed within the chunk, also in derivatives, which compute the message anew.

Shapes: N nodes, E edges, e edges of a chunk, C channels, H hidden radial features, S weights of the message.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from eqmol.ops.contract import RadialWeight
from eqmol.ops.multilinear import Form, partials

#: Numbers that a chunk has at a time on the CPU: they stay in the cache of one core. Other devices want large chunks.
CHUNK, CHUNK_ELSEWHERE = 1 << 18, 1 << 26


class Nodes(NamedTuple):
    """Senders and receivers [E] of the edges, and the number of receivers."""

    senders: Tensor
    receivers: Tensor
    num_receivers: int


def sum_messages(
    message: Form,
    rows: int,
    x: Tensor,
    geometry: Sequence[Tensor],
    weight: RadialWeight,
    nodes: Nodes | None = None,
) -> Tensor:
    """Sum over the edges of every receiver, or the message of every edge.

    Args:
        message: form in weights [e, S, C], features [e, lm_in, C], tensors of the geometry [e, ...] and the cotangent
            [e, rows, C] of the message, for any number of edges.
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

    message: Form
    nodes: Nodes | None
    shape: tuple[int, int, int]

    def partials(self, slots: Sequence[int], arguments: Sequence[Tensor | None]) -> list[Tensor]:
        hidden, matrix, *others = arguments
        assert hidden is not None
        assert matrix is not None
        last = len(arguments) - 1
        shapes = [self.shape if a is None else a.shape for a in arguments]
        result = {slot: hidden.new_zeros(shapes[slot]) for slot in slots}
        # hidden and matrix are one slot of the message, the weights
        wanted = sorted({max(slot - 1, 0) for slot in slots})
        given = [i for i in range(last) if wanted != [i]]
        flat = matrix.flatten(1)
        others = [None if a is None else a.contiguous() for a in others]
        for rows in self._chunks(hidden, flat, shapes):
            index: dict[int, Tensor] = {}
            if self.nodes is not None:
                index = {2: self.nodes.senders[rows], last: self.nodes.receivers[rows]}
            local: list[Tensor | None] = [None] * last
            for i in given:
                local[i] = (
                    (hidden[rows] @ flat).unflatten(1, matrix.shape[1:])
                    if i == 0
                    else _take(others[i - 1], index.get(i + 1, rows))
                )
            for i, part in zip(wanted, self.message.partials(wanted, local), strict=True):
                if i > 0:
                    _add(result[i + 1], index.get(i + 1, rows), part)
                    continue
                part = part.flatten(1)
                if 0 in result:
                    torch.mm(part, flat.T, out=result[0][rows])
                if 1 in result:
                    result[1].view_as(flat).addmm_(hidden[rows].T, part)
        return [result[slot] for slot in slots]

    def _chunks(self, hidden: Tensor, flat: Tensor, shapes: Sequence[Sequence[int]]) -> Iterator[slice]:
        """Slices of edges of nearly equal length."""
        per_edge = flat.shape[1] + 2 * (shapes[2][1] + self.shape[1]) * self.shape[2]
        limit = CHUNK if hidden.device.type == "cpu" else CHUNK_ELSEWHERE
        edges = hidden.shape[0]
        number = -(-edges * per_edge // limit)
        bounds = [edges * i // number for i in range(number + 1)] if edges else []
        return (slice(a, b) for a, b in pairwise(bounds) if b > a)


def _take(source: Tensor | None, rows: Tensor | slice) -> Tensor:
    assert source is not None
    return source[rows] if isinstance(rows, slice) else source.index_select(0, rows)


def _add(target: Tensor, rows: Tensor | slice, values: Tensor) -> None:
    if isinstance(rows, slice):
        target[rows] = values
    else:
        target.index_add_(0, rows, values)
