"""From scalar features to one number per node.

Shapes: N nodes, C channels, H hidden features. Parameters are standard normal and scaled by 1/√fan-in when used.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from eqmol.nn.activation import SILU_GAIN, silu
from eqmol.nn.parameter_groups import WithMatrices
from eqmol.so3.kept import kept


class LinearReadout(nn.Module):
    """A linear map of scalars."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels))

    def forward(self, scalars: Tensor) -> Tensor:
        """[N, C] -> [N]."""
        return scalars @ _scaled(self.weight)

    def slopes(self, scalars: Tensor) -> tuple[Tensor, Tensor]:
        """The result [N] and its derivatives by the scalars [N or 1, C], without a record of operations."""
        weight = _scaled(self.weight).detach()
        return scalars @ weight, weight.unsqueeze(0)

    def features(self, scalars: Tensor) -> Tensor:
        """[N, C] -> [N, C], whose product with the weights is the result."""
        return scalars / math.sqrt(len(self.weight))


class NonlinearReadout(WithMatrices):
    """A perceptron with one hidden layer and SiLU."""

    matrices: ClassVar = {"weight": 0}

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, hidden))
        self.last = LinearReadout(hidden)

    def forward(self, scalars: Tensor) -> Tensor:
        """[N, C] -> [N]."""
        return self.last(self._hidden(scalars))

    def slopes(self, scalars: Tensor) -> tuple[Tensor, Tensor]:
        """The result [N] and its derivatives by the scalars [N, C], without a record of operations."""
        weight = _scaled(self.weight).detach()
        hidden = scalars @ weight
        values, slopes = self.last.slopes(torch.nn.functional.silu(hidden))
        by_hidden = torch.ops.aten.silu_backward((SILU_GAIN * slopes).expand_as(hidden), hidden)
        return SILU_GAIN * values, by_hidden @ weight.mT

    def features(self, scalars: Tensor) -> Tensor:
        """[N, C] -> [N, H], whose product with the weights of the last linear map is the result."""
        return self.last.features(self._hidden(scalars))

    def _hidden(self, scalars: Tensor) -> Tensor:
        return silu(scalars @ _scaled(self.weight)) * SILU_GAIN


@kept
def _scaled(weight: Tensor) -> Tensor:
    return weight / math.sqrt(len(weight))
