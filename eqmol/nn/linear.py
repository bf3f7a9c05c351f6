"""Linear maps between channels, one per degree; degrees never mix, so the maps are equivariant.

Shapes: N nodes, lm = (degree + 1)² components, C channels. Parameters are standard normal and scaled by 1/√fan-in when
used. No biases.
"""

import math
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from eqmol.nn.parameter_groups import WithMatrices
from eqmol.so3.layout import degrees, dim


class Linear(WithMatrices):
    """One channel map per degree.

    Args:
        degree_in, degree_out: highest degrees of input and output. Degrees above ``degree_out`` are dropped. The output
            cannot have a degree that the input lacks.
        channels_in, channels_out: numbers of channels.
    """

    matrices: ClassVar = {"weight": -2}
    degree: Tensor

    def __init__(self, degree_in: int, degree_out: int, channels_in: int, channels_out: int) -> None:
        super().__init__()
        assert degree_out <= degree_in, f"degree {degree_out} cannot come from degrees up to {degree_in}"
        self.weight = nn.Parameter(torch.randn(degree_out + 1, channels_in, channels_out))
        self.register_buffer("degree", torch.as_tensor(degrees(degree_out)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, lm_in, C_in] -> [N, lm_out, C_out]."""
        weight = self.weight / math.sqrt(self.weight.shape[1])
        return _per_component(x, weight.index_select(0, self.degree))

    def extra_repr(self) -> str:
        return f"degree {self.weight.shape[0] - 1}, channels {self.weight.shape[1]} -> {self.weight.shape[2]}"


#: Numbers of the maps of all nodes that are made one by one if they are so few: products are small, and calls count.
GATHERED = 1 << 18


class Groups(NamedTuple):
    """Nodes ordered by group, so that each group's map is one matrix product.

    Attributes:
        group: [N] of each node.
        order: [N] node at each place of the order.
        place: [N] place of each node, the inverse of ``order``.
        counts: number of nodes of each group.
    """

    group: Tensor
    order: Tensor
    place: Tensor
    counts: list[int]


def group_nodes(group: Tensor, num_groups: int) -> Groups:
    """Order nodes by their group [N], 0 ... num_groups - 1."""
    order = torch.argsort(group, stable=True)
    counts = torch.bincount(group, minlength=num_groups)
    return Groups(group, order, torch.argsort(order), counts.tolist())


class GroupLinear(WithMatrices):
    """A :class:`Linear` for each group of nodes, such as each element.

    Args:
        num_groups: number of groups.
        degree_in, degree_out: as in :class:`Linear`.
        channels_in, channels_out: numbers of channels.
    """

    matrices: ClassVar = {"weight": -2}
    degree: Tensor

    def __init__(self, num_groups: int, degree_in: int, degree_out: int, channels_in: int, channels_out: int) -> None:
        super().__init__()
        assert degree_out <= degree_in, f"degree {degree_out} cannot come from degrees up to {degree_in}"
        self.weight = nn.Parameter(torch.randn(num_groups, degree_out + 1, channels_in, channels_out))
        self.register_buffer("degree", torch.as_tensor(degrees(degree_out)), persistent=False)

    def forward(self, x: Tensor, groups: Groups) -> Tensor:
        """[N, lm_in, C_in] -> [N, lm_out, C_out]."""
        scaled = self.weight / math.sqrt(self.weight.shape[2])
        if len(x) * scaled[0].numel() <= GATHERED:
            own = scaled.index_select(0, groups.group)
            if scaled.shape[1] == 1:
                return torch.bmm(x[:, :1], own[:, 0])
            return torch.matmul(x[:, : len(self.degree)].unsqueeze(2), own.index_select(1, self.degree)).squeeze(2)
        weight = scaled.index_select(1, self.degree)
        parts = x.index_select(0, groups.order).split(groups.counts)
        mapped = [_per_component(part, w) for part, w in zip(parts, weight.unbind(), strict=True) if len(part)]
        return torch.cat(mapped).index_select(0, groups.place) if mapped else x.new_zeros(0, *weight.shape[1::2])


def _per_component(x: Tensor, weight: Tensor) -> Tensor:
    """x [N, lm or more, C_in] times weight [lm, C_in, C_out]: one batched product beats one per degree."""
    return torch.bmm(x[:, : weight.shape[0]].transpose(0, 1), weight).transpose(0, 1)


def pad_degrees(x: Tensor, degree: int) -> Tensor:
    """Append zeros for the degrees that x [N, lm, C] lacks up to ``degree``."""
    return pad(x, (0, 0, 0, dim(degree) - x.shape[1]))
