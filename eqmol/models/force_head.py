"""Vectors and tensors read from features: forces without an energy behind them, dipole moments, polarizabilities."""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from eqmol.nn.activation import SILU_GAIN, silu
from eqmol.nn.parameter_groups import WithMatrices
from eqmol.so3.layout import degree_slice


class ForceHead(WithMatrices):
    """One field of a degree l > 0, 1 for vectors, gated by scalars: F = Σ_h w_h SiLU(W s)_h (V x)_h.

    Zero for atoms without neighbours, whose features of degrees above 0 are zero.

    Shapes: N nodes, lm >= (l + 1)² components, C channels.
    """

    matrices: ClassVar = {"gate": 0, "vector": 0}

    def __init__(self, channels: int, degree: int = 1) -> None:
        super().__init__()
        self.components = degree_slice(degree)
        self.gate = nn.Parameter(torch.randn(channels, channels))
        self.vector = nn.Parameter(torch.randn(channels, channels))
        self.last = nn.Parameter(torch.randn(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[N, lm, C] -> [N, 2 l + 1]; degree 1 reads x, y, z."""
        fan_in = math.sqrt(len(self.last))
        gate = silu(x[:, 0] @ (self.gate / fan_in)) * SILU_GAIN
        vectors = x[:, self.components] @ (self.vector / fan_in)
        return (vectors * gate.unsqueeze(1)) @ (self.last / fan_in)
