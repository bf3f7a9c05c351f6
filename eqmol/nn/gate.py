"""Gated activation: scalars through SiLU, every other degree times an invariant gate made of the scalars.

Shapes: N rows, lm = (degree + 1)² components, C channels.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from eqmol.nn.activation import SIGMOID_GAIN, SILU_GAIN, silu
from eqmol.nn.parameter_groups import WithMatrices
from eqmol.so3.layout import degrees


class Gate(WithMatrices):
    """One gate per degree and channel, the sigmoid of a linear map of the scalars. Exactly equivariant.

    Source: Weiler et al. 2018, arXiv:1807.02547, section 4.3; gates from all scalars as in Equiformer, arXiv:2206.11990.

    Args:
        degree: highest degree of the features.
        channels: C.
    """

    matrices: ClassVar = {"weight": 0}
    degree: Tensor

    def __init__(self, degree: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, degree, channels)) if degree else None
        self.register_buffer("degree", torch.as_tensor(degrees(degree)[1:] - 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, lm, C] -> [N, lm, C]."""
        scalars = x[:, 0]
        activated = (silu(scalars) * SILU_GAIN).unsqueeze(1)
        if self.weight is None:
            return activated
        mixed = scalars @ (self.weight / math.sqrt(len(self.weight))).flatten(1)
        gates = (torch.sigmoid(mixed) * SIGMOID_GAIN).unflatten(-1, self.weight.shape[1:])
        return torch.cat([activated, x[:, 1:] * gates.index_select(1, self.degree)], dim=1)
