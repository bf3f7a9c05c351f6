"""Convolutions whose weights are read from a table of distances inside the kernel: never stored, differentiable once."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from eqmol.ops.contract import Convolution, HarmonicConvolution, side_by_side
from eqmol.ops.kernels import can_run, library, mode
from eqmol.ops.kernels.expressions import SLOPE
from eqmol.ops.kernels.forms import NODES, TABLE_SETS, check_indices, table_kernel
from eqmol.ops.kernels.library import Kernel
from eqmol.ops.kernels.replay import do
from eqmol.ops.kernels.stretches import by_receiver, by_sum
from eqmol.so3.layout import dim
from eqmol.threads import each_slice


class TabulatedConvolution:
    """A convolution with weights from a table, and its derivatives.

    Features, harmonics and fractions are contiguous, and their indices are in range.

    Args:
        kernels: of the values, and of the derivatives.
        table: from :func:`packed`.
        rows: of the result.
    """

    def __init__(self, kernels: tuple[Kernel, Kernel], table: Tensor, rows: int) -> None:
        self._kernels, self._table, self._rows = kernels, table, rows

    def __call__(self, x: Tensor, edges: "TabulatedEdges", receivers: int) -> Tensor:
        """Sums of messages at the receivers [receivers, rows, C], blocks one after another."""
        result = x.new_empty(receivers, self._rows, x.shape[2])
        do(result.zero_)
        given = {"x": x, "m": edges.harmonics, "fraction": edges.fraction, "table": self._table, SLOPE + "v": result}
        _run(self._kernels[0], edges.by_receiver, edges, given, x)
        return result

    def slopes(self, x: Tensor, edges: "TabulatedEdges", v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Derivatives of Σ v · result by features, harmonics and fractions."""
        starts, chain = edges.by_sum
        sums = x.new_empty((starts.shape[0] - 1) // chain, *x.shape)
        do(sums.zero_)
        by_y, by_fraction = torch.empty_like(edges.harmonics), torch.empty_like(edges.fraction)
        given = {"x": x, "m": edges.harmonics, "fraction": edges.fraction, "table": self._table, "v": v}
        given |= {SLOPE + "x": sums, SLOPE + "y": by_y, SLOPE + "fraction": by_fraction}
        _run(self._kernels[1], starts, edges, given, x, chain)
        return sums[0] if sums.shape[0] == 1 else _total(sums), by_y, by_fraction


def _total(sums: Tensor) -> Tensor:
    """Of sums [K, N, ...], [N, ...]."""
    total = torch.empty_like(sums[0])
    each_slice(lambda nodes: torch.sum(sums[:, nodes], 0, out=total[nodes]), total.shape[0], NODES)
    return total


def _run(
    kernel: Kernel, starts: Tensor, edges: "TabulatedEdges", tensors: dict[str, Tensor], x: Tensor, chain: int = 1
) -> None:
    sizes, indices = (x.shape[2], x.shape[0], chain), (starts, *edges.indices)
    kernel(sizes, indices, tensors, x, range(starts.shape[0]), chain)


class TabulatedEdges(NamedTuple):
    """Edges as the kernels take them.

    Attributes:
        harmonics: [E, lm].
        fraction: [E].
        indices: senders, receivers and rows of the table [E].
        by_receiver, by_sum: stretches of edges, see :mod:`eqmol.ops.kernels.stretches`.
    """

    harmonics: Tensor
    fraction: Tensor
    indices: tuple[Tensor, Tensor, Tensor]
    by_receiver: Tensor
    by_sum: tuple[Tensor, int]

    @classmethod
    def of(cls, harmonics: Tensor, fraction: Tensor, indices: tuple[Tensor, Tensor, Tensor]) -> "TabulatedEdges":
        """All edges, divided as they are many."""
        return cls(harmonics, fraction, indices, by_receiver(indices[1]), by_sum(fraction.shape[0]))

    @classmethod
    def room(cls, number: int, components: int, like: Tensor) -> "TabulatedEdges":
        """Room for edges [E] with so many harmonics, in one stretch whose end, ``by_receiver[1]``, may be set."""
        sender, receiver, row = torch.zeros(3, number, dtype=torch.int64)
        starts = torch.tensor([0, number])
        zeros = like.new_zeros(number, components), like.new_zeros(number)
        return cls(*zeros, (sender, receiver, row), starts, (starts, 1))


def constant_convolution(op: Convolution, table: Tensor, *others: Tensor) -> TabulatedConvolution | None:
    """A convolution with weights from a table of :func:`packed` for tensors of its type; None where there is no kernel."""
    if not isinstance(op, HarmonicConvolution) or table.device.type != "cpu" or not can_run(op, table, *others):
        return None
    components = dim(op.degree_geometry)
    values, slopes = (table_kernel(op.spec, wanted, components, table.dtype, mode(op)) for wanted in TABLE_SETS)
    if values is None or slopes is None:
        return None
    return TabulatedConvolution((values, slopes), table, op.spec.num_blocks * dim(op.spec.degree_out))


def tabulated_convolution(
    op: Convolution,
    x: Tensor,
    harmonics: Any,
    table: Tensor,
    row: Tensor,
    fraction: Tensor,
    senders: Tensor,
    receivers: Tensor,
    num_receivers: int,
) -> Tensor | None:
    """A convolution with weights from a table, differentiable once; None where there is no kernel.

    Args:
        op: the convolution.
        x: [N, lm_in, C].
        harmonics: [E, lm] of a :class:`HarmonicConvolution`.
        table: from :func:`packed`.
        row, fraction: [E] places in the table.
        senders, receivers: [E].
        num_receivers: rows of the result.
    """
    if not isinstance(op, HarmonicConvolution) or senders.dim() > 1:
        return None
    found = constant_convolution(op, table, x, harmonics, row, fraction, senders, receivers)
    if found is None:
        return None
    check_indices("sender", senders, len(x))
    check_indices("receiver", receivers, num_receivers)
    check_indices("row", row, len(table))
    indices = senders.contiguous(), receivers.contiguous(), row.contiguous()
    return side_by_side(op.spec, _Tabulated.apply(x, harmonics, fraction, found, indices, num_receivers))


def packed(weights: Tensor) -> Tensor:
    """Coefficients [R, 6, W, C] as kernels read them: [R, blocks, 6, W, width], what a block of channels needs in one piece."""
    width = library.width(weights.dtype)
    blocks = -(-weights.shape[-1] // width)
    filled = pad(weights, (0, blocks * width - weights.shape[-1]))
    return filled.unflatten(-1, (blocks, width)).movedim(-2, 1).contiguous()


class _Tabulated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        harmonics: Tensor,
        fraction: Tensor,
        convolution: TabulatedConvolution,
        indices: tuple[Tensor, Tensor, Tensor],
        receivers: int,
    ) -> Tensor:
        x, harmonics, fraction = x.contiguous(), harmonics.contiguous(), fraction.contiguous()
        ctx.save_for_backward(x, harmonics, fraction)
        ctx.convolution, ctx.indices = convolution, indices
        return convolution(x, TabulatedEdges.of(harmonics, fraction, indices), receivers)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, harmonics, fraction = ctx.saved_tensors
        edges = TabulatedEdges.of(harmonics, fraction, ctx.indices)
        return *ctx.convolution.slopes(x, edges, gradient.contiguous()), None, None, None
