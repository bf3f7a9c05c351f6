"""Equivariant graph attention whose messages mix channels and degrees in the frame of the edge.

Source: Liao et al. 2023, arXiv:2306.12059 (EquiformerV2), with the SO(2) convolutions of Passaro and Zitnick 2023,
arXiv:2302.03655.

Shapes: N nodes, E edges, lm components, C channels, h heads, A channels per head, V values per head, M channels inside.
"""

import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from eqmol.errors import InputError
from eqmol.models.attention import AttentionSizes, Edges
from eqmol.models.mixing import MixingLayer
from eqmol.nn import (
    AttentionLogits,
    Gate,
    Linear,
    RadialMatrix,
    SphereActivation,
    attention_weights,
)
from eqmol.ops import Algebra, RadialWeight

Activation = Literal["gate", "s2"]


class MessageSizes(NamedTuple):
    """What stands inside the messages: M, V, the activation and the resolution of its sphere, and whether factors know orders."""

    channels: int
    values: int
    activation: Activation
    resolution: int | None
    order_factors: bool


class SO2Attention(nn.Module):
    """Σ over edges of attention weight · envelope · message, for every head its own part of the message.

    The features of both ends, times factors that know distance and elements, are mixed to M channels and to invariants; the
    activation, whose scalars are invariants too, is mixed again to the values of all heads. Attention weights are made of the
    other invariants.

    Args:
        algebra: what the mixings are.
        degree_in, degree_out: highest degrees of input and output.
        channels: C.
        sizes: see :class:`AttentionSizes`.
        message: see :class:`MessageSizes`.
        alpha_drop: probability that training leaves out an attention weight.

    Raises:
        InputError: another activation, or algorithms that cannot mix channels.
    """

    def __init__(
        self,
        algebra: Algebra,
        degree_in: int,
        degree_out: int,
        channels: int,
        sizes: AttentionSizes,
        message: MessageSizes,
        alpha_drop: float,
    ) -> None:
        super().__init__()
        if message.activation not in get_args(Activation):
            raise InputError(
                f"activation={message.activation!r} is unknown; choose from {', '.join(get_args(Activation))}"
            )
        self.scale = math.sqrt(max(sizes.avg_num_neighbors, 1.0))
        self.num_degrees = degree_in + 1
        self.split = [sizes.heads * sizes.alpha_channels, message.channels]
        self.values = sizes.heads, message.values
        self.radial = sizes.pair_network()
        self.inner = MixingLayer(algebra.mixing(degree_in, degree_in), 2 * channels, message.channels)
        self.invariants = MixingLayer(algebra.mixing(degree_in, 0), 2 * channels, sum(self.split))
        factors = len(self.inner.mixing.spec.own_factors) if message.order_factors else self.num_degrees
        self.matrix = RadialMatrix(sizes.radial_hidden[-1], factors, 2 * channels)
        self.logits = AttentionLogits(sizes.heads, sizes.alpha_channels)
        self.alpha_drop = nn.Dropout(alpha_drop)
        self.gate = Gate(degree_in, message.channels) if message.activation == "gate" else None
        self.sphere = SphereActivation(degree_in, degree_in, message.resolution) if self.gate is None else None
        width = sizes.heads * message.values
        self.outer = MixingLayer(algebra.mixing(degree_in, degree_out), message.channels, width)
        self.down = Linear(degree_out, degree_out, width, channels)

    def forward(self, x: Tensor, edges: Edges) -> Tensor:
        """Features [N, lm_in, C] -> [N, lm_out, C]; zero for nodes without edges."""
        hidden, matrix = self.radial(edges.basis, edges.sender_species, edges.receiver_species), self.matrix()
        both = torch.cat([x.index_select(0, edges.senders), x.index_select(0, edges.receivers)], dim=-1)
        inside = edges.geometry(self.inner.mixing)
        values = self.inner(both, inside, RadialWeight(hidden, matrix))
        # factors of order 0 come first
        factors = RadialWeight(hidden, matrix[:, : self.num_degrees])
        invariants = self.invariants(both, edges.geometry(self.invariants.mixing), factors).squeeze(1)
        logits, scalars = invariants.split(self.split, dim=-1)
        values = self.outer(self._activate(values, scalars), edges.geometry(self.outer.mixing), None)
        alpha = attention_weights(self.logits(logits), edges.envelope, edges.receivers, len(x))
        alpha = self.alpha_drop(alpha) * (edges.envelope * self.scale).unsqueeze(-1)
        messages = (values.unflatten(-1, self.values) * alpha[:, None, :, None]).flatten(2)
        return self.down(messages.new_zeros(len(x), *messages.shape[1:]).index_add(0, edges.receivers, messages))

    def _activate(self, values: Tensor, scalars: Tensor) -> Tensor:
        if self.sphere is not None:
            return self.sphere(values, scalars)
        assert self.gate is not None
        return self.gate(torch.cat([scalars.unsqueeze(1), values[:, 1:]], dim=1))
