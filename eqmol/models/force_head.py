"""Forces read from features, without an energy behind them."""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from eqmol.nn.activation import SILU_GAIN, silu


class ForceHead(nn.Module):
    """Vectors from features of degree 1, gated by scalars: F = Σ_h w_h SiLU(W s)_h (V x)_h.

    Zero for atoms without neighbours, whose features of degree 1 are zero.

    Shapes: N nodes, lm >= 4 components, C channels.
    """

    matrices: ClassVar = {"gate": 0, "vector": 0}

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.randn(channels, channels))
        self.vector = nn.Parameter(torch.randn(channels, channels))
        self.last = nn.Parameter(torch.randn(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[N, lm, C] -> [N, 3] in the order x, y, z."""
        fan_in = math.sqrt(len(self.last))
        gate = silu(x[:, 0] @ (self.gate / fan_in)) * SILU_GAIN
        # degree 1 reads x, y, z
        vectors = x[:, 1:4] @ (self.vector / fan_in)
        return (vectors * gate.unsqueeze(1)) @ (self.last / fan_in)
