"""Equivariant graph attention over convolved messages.

Source: Liao et al. 2023, arXiv:2306.12059 (EquiformerV2), with any convolution of :mod:`eqmol.ops`.

Shapes: N nodes, E edges, lm components, C channels, h heads, A channels per head, H hidden radial features.
"""

import math
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from eqmol.errors import InputError
from eqmol.nn import AttentionLogits, Gate, Linear, PairNetwork, RadialMatrix, attention_weights
from eqmol.ops import Algebra, Convolution, RadialWeight
from eqmol.ops.contract import EdgeProduct

MESSAGES = ("linear", "nonlinear")


class Edges(NamedTuple):
    """What attention knows of the edges.

    Attributes:
        senders, receivers: [E].
        sender_species, receiver_species: [E] elements of the ends.
        basis: radial basis [E, B].
        envelope: [E], zero at the cutoff.
        geometries: what each kind of convolution needs, by its ``geometry_key``.
        graphs: [N] graph of each node, where noise of training is that of graphs.
    """

    senders: Tensor
    receivers: Tensor
    sender_species: Tensor
    receiver_species: Tensor
    basis: Tensor
    envelope: Tensor
    geometries: Mapping[Hashable, Any]
    graphs: Tensor | None = None

    def geometry(self, convolution: EdgeProduct) -> Any:
        """The geometry of a convolution."""
        return self.geometries[convolution.geometry_key]


class AttentionSizes(NamedTuple):
    """Sizes of the attention: h, A, widths of the radial network, B, number of elements, mean number of edges, and width of the
    elements' embeddings beside the radial basis, if any.
    """

    heads: int
    alpha_channels: int
    radial_hidden: list[int]
    num_bessel: int
    num_elements: int
    avg_num_neighbors: float
    element_channels: int | None = None

    def pair_network(self) -> PairNetwork:
        """The radial network."""
        return PairNetwork(self.num_bessel, self.radial_hidden, self.num_elements, self.element_channels)


class GraphAttention(nn.Module):
    """Σ over edges of attention weight · envelope · message.

    Attention weights come from the invariants of the edge: the degree-0 part of a convolution of features of both ends,
    with radial weights that know both elements. Head k scales the k-th part of the hidden radial features, so that the
    weights of a convolution are a sum over heads: attention costs nothing beyond the radial network, in any algorithm.

    - ``linear``: messages are convolutions of the sender's features, so an algorithm may sum edges before it projects.
    - ``nonlinear``: convolve features of both ends, gate, convolve again; the form of EquiformerV2, per edge.

    Args:
        algebra: what the convolutions are.
        degree_in, degree_filter, degree_out: of the convolution.
        channels: C.
        messages: ``linear`` or ``nonlinear``.
        sizes: see :class:`AttentionSizes`.
        alpha_drop: probability that training leaves out an attention weight.

    Raises:
        InputError: another kind of messages.
    """

    inner: Convolution | None

    def __init__(
        self,
        algebra: Algebra,
        degree_in: int,
        degree_filter: int,
        degree_out: int,
        channels: int,
        messages: str,
        sizes: AttentionSizes,
        alpha_drop: float,
    ) -> None:
        super().__init__()
        if messages not in MESSAGES:
            raise InputError(f"messages={messages!r} is unknown; choose from {', '.join(MESSAGES)}")
        hidden, width = sizes.radial_hidden[-1], sizes.heads * sizes.alpha_channels
        self.heads = sizes.heads
        self.scale = math.sqrt(max(sizes.avg_num_neighbors, 1.0))
        self.radial = sizes.pair_network()
        self.invariants = algebra.convolution(degree_in, degree_in, 0)
        self.alpha_sender = Linear(degree_in, degree_in, channels, width)
        self.alpha_receiver = Linear(degree_in, degree_in, channels, width)
        self.alpha_matrix = RadialMatrix(hidden, self.invariants.spec.num_weights, width)
        self.logits = AttentionLogits(sizes.heads, sizes.alpha_channels)
        self.alpha_drop = nn.Dropout(alpha_drop)
        self.sender = Linear(degree_in, degree_in, channels, channels)
        self.inner = None
        if messages == "nonlinear":
            self.receiver = Linear(degree_in, degree_in, channels, channels)
            inner = algebra.convolution(degree_in, degree_filter, degree_in)
            self.inner = inner
            self.inner_matrix = RadialMatrix(hidden, inner.spec.num_weights, channels)
            self.gate = Gate(degree_in, channels)
        self.convolution = algebra.convolution(degree_in, degree_filter, degree_out)
        self.matrix = RadialMatrix(hidden, self.convolution.spec.num_weights, channels)
        self.down = Linear(degree_out, degree_out, channels, channels)

    def forward(self, x: Tensor, edges: Edges) -> Tensor:
        """Features [N, lm_in, C] -> [N, lm_out, C]; zero for nodes without edges."""
        hidden = self.radial(edges.basis, edges.sender_species, edges.receiver_species)
        alpha = self.alpha(x, hidden, edges) * edges.envelope.unsqueeze(-1)
        weighted = hidden.unflatten(-1, (self.heads, -1)) * (alpha * self.scale).unsqueeze(-1)
        weight = RadialWeight(weighted.flatten(1), self.matrix())
        values, senders = self.sender(x), edges.senders
        if self.inner is not None:
            both = values.index_select(0, senders) + self.receiver(x).index_select(0, edges.receivers)
            inner_weight = RadialWeight(hidden, self.inner_matrix())
            values = self.gate(self.inner.message(both * math.sqrt(1 / 2), edges.geometry(self.inner), inner_weight))
            senders = torch.arange(len(values), device=values.device)
        geometry = edges.geometry(self.convolution)
        return self.down(self.convolution(values, geometry, weight, senders, edges.receivers, len(x)))

    def alpha(self, x: Tensor, hidden: Tensor, edges: Edges) -> Tensor:
        """Attention weights [E, h]."""
        ends = torch.stack((edges.senders, edges.receivers + len(x)))
        features = torch.cat((self.alpha_sender(x), self.alpha_receiver(x))) * math.sqrt(1 / 2)
        weight, number = RadialWeight(hidden, self.alpha_matrix()), len(edges.senders)
        each = torch.arange(number, device=x.device)
        invariants = self.invariants(features, edges.geometry(self.invariants), weight, ends, each, number).squeeze(1)
        alpha = attention_weights(self.logits(invariants), edges.envelope, edges.receivers, len(x))
        return self.alpha_drop(alpha)
