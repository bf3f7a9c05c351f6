"""Linear maps between channels, one per degree; degrees never mix, so the maps are equivariant.

Shapes: N nodes, lm = (degree + 1)² components, C channels. Parameters are standard normal and scaled by 1/√fan-in when
used. No biases.
"""

import math
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from eqmol.nn.parameter_groups import WithMatrices
from eqmol.so3.kept import has_memory, kept
from eqmol.so3.layout import degrees, dim
from eqmol.threads import each


class Linear(WithMatrices):
    """One channel map per degree.

    Args:
        degree_in, degree_out: highest degrees of input and output. Degrees above ``degree_out`` are dropped. The output
            cannot have a degree that the input lacks.
        channels_in, channels_out: numbers of channels.
    """

    matrices: ClassVar = {"weight": -2}

    def __init__(self, degree_in: int, degree_out: int, channels_in: int, channels_out: int) -> None:
        super().__init__()
        assert degree_out <= degree_in, f"degree {degree_out} cannot come from degrees up to {degree_in}"
        self.weight = nn.Parameter(torch.randn(degree_out + 1, channels_in, channels_out))

    def forward(self, x: Tensor, factor: float = 1.0) -> Tensor:
        """[N, lm_in, C_in] -> [N, lm_out, C_out], times a factor."""
        return _per_component(x, _maps(self.weight, factor))

    def extra_repr(self) -> str:
        return f"degree {self.weight.shape[0] - 1}, channels {self.weight.shape[1]} -> {self.weight.shape[2]}"


#: Numbers of the maps of all nodes that are made one by one if they are so few: products are small, and calls count.
GATHERED = 1 << 18


@kept
def _ordered(group: Tensor, num_groups: int) -> tuple[Tensor, Tensor, list[int]]:
    """Nodes ordered by their group [N], so that each group's map is one matrix product.

    Returns:
        The node at each place of the order [N], the place of each node [N], and numbers of nodes of each group.
    """
    order = torch.argsort(group, stable=True)
    counts = torch.bincount(group, minlength=num_groups)
    return order, torch.argsort(order), counts.tolist()


class GroupLinear(WithMatrices):
    """A :class:`Linear` for each group of nodes, such as each element.

    Args:
        num_groups: number of groups.
        degree_in, degree_out: as in :class:`Linear`.
        channels_in, channels_out: numbers of channels.
    """

    matrices: ClassVar = {"weight": -2}

    def __init__(self, num_groups: int, degree_in: int, degree_out: int, channels_in: int, channels_out: int) -> None:
        super().__init__()
        assert degree_out <= degree_in, f"degree {degree_out} cannot come from degrees up to {degree_in}"
        self.weight = nn.Parameter(torch.randn(num_groups, degree_out + 1, channels_in, channels_out))

    def forward(self, x: Tensor, group: Tensor, factor: float = 1.0) -> Tensor:
        """[N, lm_in, C_in] and group of every node [N] -> [N, lm_out, C_out], times a factor."""
        if len(x) * self.weight[0].numel() <= GATHERED:
            own = _scaled(self.weight, factor).index_select(0, group)
            if own.shape[1] == 1:
                return torch.bmm(x[:, :1], own[:, 0])
            own = own.index_select(1, _degrees(own.shape[1] - 1, own.device))
            return torch.matmul(x[:, : own.shape[1]].unsqueeze(2), own).squeeze(2)
        weight = _maps(self.weight, factor)
        order, place, counts = _ordered(group, len(weight))
        parts = x.index_select(0, order).split(counts)
        mapped = [_per_component(part, w) for part, w in zip(parts, weight.unbind(), strict=True) if len(part)]
        return torch.cat(mapped).index_select(0, place) if mapped else x.new_zeros(0, *weight.shape[1::2])


def _scale(weight: Tensor, factor: float) -> Tensor:
    return weight * (factor / math.sqrt(weight.shape[-2]))


_scaled = kept(_scale)


@kept
def _maps(weight: Tensor, factor: float) -> Tensor:
    """Of every component, [..., lm_out, C_in, C_out]."""
    return _scale(weight, factor).index_select(-3, _degrees(weight.shape[-3] - 1, weight.device))


@lru_cache(maxsize=64)
def _degrees(degree: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.as_tensor(degrees(degree), device=device)


#: Nodes whose maps one thread makes at a time.
NODES = 256


def _per_component(x: Tensor, weight: Tensor) -> Tensor:
    """x [N, lm or more, C_in] times weight [lm, C_in, C_out]."""
    if x.shape[1] > len(weight):
        x = x[:, : len(weight)]
    is_constant = x.device.type == "cpu" and not weight.requires_grad and has_memory(x) and has_memory(weight)
    if is_constant and len(x) > NODES:
        mapped: Tensor = _Mapped.apply(x.transpose(0, 1), weight)
        return mapped.transpose(0, 1)
    # one batched product beats one per degree
    return torch.bmm(x.transpose(0, 1), weight).transpose(0, 1)


class _Mapped(torch.autograd.Function):
    """Products of matrices x [lm, N, C_in] and constants [lm, C_in, C_out], divided among threads."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.weight = weight
        # side by side for each node, as products want them
        found = x.new_empty(x.shape[1], len(weight), weight.shape[2]).transpose(0, 1)

        def multiply(part: int) -> None:
            nodes = slice(part * NODES, (part + 1) * NODES)
            torch.bmm(x[:, nodes], weight, out=found[:, nodes])

        each(multiply, -(-x.shape[1] // NODES))
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Mapped.apply(gradient, ctx.weight.transpose(1, 2)), None


def pad_degrees(x: Tensor, degree: int) -> Tensor:
    """Append zeros for the degrees that x [N, lm, C] lacks up to ``degree``."""
    if x.shape[1] == dim(degree):
        return x
    return pad(x, (0, 0, 0, dim(degree) - x.shape[1]))
