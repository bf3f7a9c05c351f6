"""Blocks of e3nn's flat features as the tensors of a group, and back: two linear maps, each the transpose of the other.

Shapes: n rows, C channels. Flat features are [n, D], a block being [n, C · (2 l + 1)] with multiplicity before component; a group
is [n, Σ over slots of (2 l + 1), C].
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from eqmol.interop.paths import Slot


def pack(flat: Tensor, slots: Sequence[Slot], channels: int) -> Tensor:
    """The slots of a group from flat features."""
    return _Pack.apply(flat, tuple(slots), channels)


def unpack(group: Tensor, slots: Sequence[Slot], width: int) -> Tensor:
    """Flat features [n, ``width``] with a group in its slots and zero elsewhere."""
    return _Unpack.apply(group, tuple(slots), width)


def components(slots: Sequence[Slot]) -> int:
    """Rows of a group."""
    return sum(2 * slot.degree + 1 for slot in slots)


def _pairs(flat: Tensor, group: Tensor, slots: Sequence[Slot]) -> Iterator[tuple[Tensor, Tensor]]:
    """Views [n, 2 l + 1, C] of every slot in both."""
    channels = group.shape[2]
    for slot, own in zip(slots, group.split([2 * slot.degree + 1 for slot in slots], dim=1), strict=True):
        block = flat.narrow(1, slot.start, channels * own.shape[1])
        yield block.unflatten(1, (channels, -1)).transpose(1, 2), own


class _Pack(torch.autograd.Function):
    @staticmethod
    def forward(flat: Tensor, slots: tuple[Slot, ...], channels: int) -> Tensor:
        group = flat.new_empty(len(flat), components(slots), channels)
        for block, own in _pairs(flat, group, slots):
            own.copy_(block)
        return group

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        flat, ctx.slots, _ = inputs
        ctx.width = flat.shape[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple:
        return unpack(gradients[0], ctx.slots, ctx.width), None, None


class _Unpack(torch.autograd.Function):
    @staticmethod
    def forward(group: Tensor, slots: tuple[Slot, ...], width: int) -> Tensor:
        is_full = components(slots) * group.shape[2] == width
        flat = (group.new_empty if is_full else group.new_zeros)(len(group), width)
        for block, own in _pairs(flat, group, slots):
            block.copy_(own)
        return flat

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        group, ctx.slots, _ = inputs
        ctx.channels = group.shape[2]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple:
        return pack(gradients[0], ctx.slots, ctx.channels), None, None
