"""Mixings of channels and degrees with their weights, standard normal and scaled by 1/√fan-in when used.

Shapes: N nodes, E edges, lm components.
"""

import math
from collections.abc import Hashable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from eqmol import ops
from eqmol.nn import WithMatrices
from eqmol.ops import Convolution, Mixing, RadialWeight
from eqmol.ops.registry import Backend
from eqmol.ops.spec import Spec


class WithMixing(WithMatrices):
    """A mixing and its shared weights.

    Args:
        mixing: the algorithm.
        channels_in, channels_out: numbers of channels.
    """

    matrices: ClassVar = {"weight": 1}

    def __init__(self, mixing: Mixing, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.mixing = mixing
        self.weight = nn.Parameter(torch.randn(mixing.spec.num_weights, channels_in, channels_out))

    @property
    def scaled(self) -> Tensor:
        """Weights as they are used."""
        return self.weight / math.sqrt(self.weight.shape[1])


class MixingLayer(WithMixing):
    """A mixing with its weights."""

    def forward(self, x: Tensor, geometry: Any, factors: RadialWeight | None) -> Tensor:
        """Message of every edge, [E, lm_in, C_in] -> [E, lm_out, C_out]."""
        return self.mixing.message(x, geometry, factors, self.scaled)


class MixingSum(WithMixing):
    """A mixing in the place of a convolution, with one radial factor per degree and channel."""

    @property
    def spec(self) -> Spec:
        """Of the mixing."""
        return self.mixing.spec

    @property
    def geometry_key(self) -> Hashable:
        """Of the mixing."""
        return self.mixing.geometry_key

    def forward(
        self, x: Tensor, geometry: Any, factors: RadialWeight, senders: Tensor, receivers: Tensor, num_receivers: int
    ) -> Tensor:
        """Sum of messages at every receiver, [N, lm_in, C] -> [num_receivers, lm_out, C]."""
        return self.mixing(x, geometry, factors, self.scaled, senders, receivers, num_receivers)


def make_convolution(spec: Spec, backend: Backend, channels: int) -> tuple[Convolution | MixingSum, int]:
    """The convolution or mixing of a spec, and how many radial weights per channel it takes.

    Raises:
        InputError: as :func:`eqmol.ops.convolution`.
    """
    if spec.operation == "mixing":
        return MixingSum(ops.mixing(spec, backend), channels, channels), spec.degree_in + 1
    return ops.convolution(spec, backend), spec.num_weights
