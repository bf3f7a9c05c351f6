"""Convolutions whose weights are read from a table of distances inside the kernel: never stored, differentiable once."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from eqmol.ops.contract import Convolution, HarmonicConvolution, side_by_side
from eqmol.ops.kernels import can_run, library, mode
from eqmol.ops.kernels.expressions import SLOPE
from eqmol.ops.kernels.forms import TABLE_SETS, check_indices, table_kernel
from eqmol.ops.kernels.library import Kernel
from eqmol.ops.kernels.stretches import by_receiver, by_sum
from eqmol.so3.layout import dim


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
    """A convolution with weights from a table; None where there is no kernel.

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
    if not can_run(op, x, harmonics, table, row, fraction, senders, receivers):
        return None
    kernels = [table_kernel(op.spec, wanted, harmonics.shape[1], x.dtype, mode(op)) for wanted in TABLE_SETS]
    if None in kernels:
        return None
    check_indices("sender", senders, len(x))
    check_indices("receiver", receivers, num_receivers)
    check_indices("row", row, len(table))
    shape = num_receivers, op.spec.num_blocks * dim(op.spec.degree_out), x.shape[2]
    rows = _Tabulated.apply(x.contiguous(), harmonics, fraction, kernels, table, row, (senders, receivers), shape)
    return side_by_side(op.spec, rows)


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
        kernels: list[Kernel],
        table: Tensor,
        row: Tensor,
        edges: tuple[Tensor, Tensor],
        shape: tuple[int, int, int],
    ) -> Tensor:
        x, harmonics, fraction = x.contiguous(), harmonics.contiguous(), fraction.contiguous()
        ctx.save_for_backward(x, harmonics, fraction)
        ctx.rest = kernels[1], table, (*(e.contiguous() for e in edges), row.contiguous())
        result = x.new_zeros(shape)
        given = {"x": x, "m": harmonics, "fraction": fraction, "table": table, SLOPE + "v": result}
        _run(kernels[0], by_receiver(ctx.rest[2][1]), ctx.rest[2], given, x)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, harmonics, fraction = ctx.saved_tensors
        kernel, table, indices = ctx.rest
        starts, chain = by_sum(len(fraction))
        sums = x.new_zeros((len(starts) - 1) // chain, *x.shape)
        by_y, by_fraction = torch.empty_like(harmonics), torch.empty_like(fraction)
        given = {"x": x, "m": harmonics, "fraction": fraction, "table": table, "v": gradient.contiguous()}
        given |= {SLOPE + "x": sums, SLOPE + "y": by_y, SLOPE + "fraction": by_fraction}
        _run(kernel, starts, indices, given, x, chain)
        return sums[0] if len(sums) == 1 else sums.sum(0), by_y, by_fraction, None, None, None, None, None


def _run(
    kernel: Kernel,
    starts: Tensor,
    indices: tuple[Tensor, ...],
    tensors: dict[str, Tensor],
    x: Tensor,
    chain: int = 1,
) -> None:
    kernel((x.shape[2], len(x), chain), (starts, *indices), tensors, x, range(len(starts)), chain)
