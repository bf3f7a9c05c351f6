"""An Equiformer-style backbone: blocks of equivariant graph attention and feed-forward networks.

Source: Liao et al. 2023, arXiv:2306.12059 (EquiformerV2), with any tensor product of :mod:`eqmol.ops`; the optional product
block after Luo et al. 2024, arXiv:2401.10216.

Shapes: N nodes, E edges, lm = (degree + 1)² components, C channels.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from eqmol.models.arguments import check_backend, check_elements, check_flag, check_integer, check_number, check_widths
from eqmol.models.attention import AttentionSizes, Edges, GraphAttention
from eqmol.models.backbone import Backbone, edge_geometries
from eqmol.models.feedforward import SelfMix, feed_forward
from eqmol.nn import (
    BesselBasis,
    DropPath,
    ElementEmbedding,
    Norm,
    NormKind,
    PairNetwork,
    RadialMatrix,
    pad_degrees,
    polynomial_envelope,
)
from eqmol.ops import Algebra, RadialWeight
from eqmol.ops.registry import Backend
from eqmol.ops.spec import MAX_DEGREE, Family, Parity
from eqmol.so3.layout import dim


class EdgeDegreeEmbedding(nn.Module):
    """Σ over edges of w_l(length, elements) · embedding of the sender · Y_l: all degrees, before any layer."""

    def __init__(self, algebra: Algebra, degree: int, channels: int, sizes: AttentionSizes) -> None:
        super().__init__()
        self.scale = 1 / math.sqrt(max(sizes.avg_num_neighbors, 1.0))
        self.radial = PairNetwork(sizes.num_bessel, sizes.radial_hidden, sizes.num_elements)
        self.convolution = algebra.convolution(0, degree, degree)
        self.matrix = RadialMatrix(sizes.radial_hidden[-1], self.convolution.spec.num_weights, channels)

    def forward(self, embedding: Tensor, edges: Edges) -> Tensor:
        """Scalars [N, 1, C] -> [N, lm, C]."""
        hidden = self.radial(edges.basis, edges.sender_species, edges.receiver_species)
        weight = RadialWeight(hidden * (edges.envelope * self.scale).unsqueeze(-1), self.matrix())
        return self.convolution(
            embedding, edges.geometry(self.convolution), weight, edges.senders, edges.receivers, len(embedding)
        )


class EquiformerLayer(nn.Module):
    """Residual blocks, each of normalised features: attention, the optional product of mixed fields, feed-forward."""

    def __init__(self, attention: GraphAttention, node_blocks: list[nn.Module], norms: list[Norm], drop: float) -> None:
        super().__init__()
        self.attention = attention
        self.node_blocks = nn.ModuleList(node_blocks)
        self.norms = nn.ModuleList(norms)
        self.drop_path = DropPath(drop)

    def forward(self, x: Tensor, edges: Edges) -> Tensor:
        """[N, lm_in, C] -> [N, lm_out, C]."""
        first, *others = self.norms
        x = self._add(x, self.attention(first(x), edges))
        for norm, block in zip(others, self.node_blocks, strict=True):
            x = self._add(x, block(norm(x)))
        return x

    def _add(self, x: Tensor, branch: Tensor) -> Tensor:
        return x[:, : branch.shape[1]] + self.drop_path(branch)


class Equiformer(Backbone):
    """Node features from edge vectors and elements; one set, normalised.

    Args:
        backend: name of the tensor-product algorithm, or one name per operation.
        family: function family of the products, or one per operation (``convolution``, ``product``).
        parity: selection rule of the products, see :mod:`eqmol.ops.spec`.
        degree: highest degree of the features.
        filter_degree: highest degree of the edges' harmonics; degrees above twice ``degree`` reach nothing.
        channels: C.
        layers: number of layers; each widens the receptive field by one cutoff.
        cutoff: Å.
        elements: atomic numbers; their order is the order of the per-element parameters.
        avg_num_neighbors: mean number of edges per atom in the training set.
        heads: attention heads; the last of ``radial_hidden`` is a multiple.
        alpha_channels: invariants per head from which attention weights are made.
        hidden_channels: channels inside feed-forward blocks; None: C.
        messages: ``linear`` in the sender's features, or ``nonlinear`` (convolve, gate, convolve).
        feedforward: ``product`` of gated fields, ``gate`` alone, or ``s2`` (pointwise on the sphere, not exactly equivariant).
        selfmix: add a block of products of differently mixed fields to every layer.
        norm: ``rms`` or ``layer``, see :class:`eqmol.nn.Norm`.
        order_max: highest order of convolutions in the edge frame; None: all. Coupled family, ``filter_degree`` twice
            ``degree``.
        degree_out: highest degree of the last features; 1 for direct forces.
        alpha_drop, drop_path: probabilities that training leaves out an attention weight, or an atom's residual branch.
        num_bessel: number of radial basis functions.
        radial_hidden: widths of the radial network's hidden layers.
        envelope_exponent: exponent of the radial envelope.
        checkpointing: recompute the activations of each layer in the backward pass: less memory, more time.

    Raises:
        InputError: an argument of the wrong type or out of bounds, or a backend that cannot run the family.
    """

    def __init__(
        self,
        backend: Backend,
        family: Family | Mapping[str, Family],
        parity: Parity,
        degree: int,
        filter_degree: int,
        channels: int,
        layers: int,
        cutoff: float,
        elements: list[int],
        avg_num_neighbors: float,
        heads: int = 4,
        alpha_channels: int = 8,
        hidden_channels: int | None = None,
        messages: str = "linear",
        feedforward: str = "product",
        selfmix: bool = False,
        norm: NormKind = "layer",
        order_max: int | None = None,
        degree_out: int = 0,
        alpha_drop: float = 0.0,
        drop_path: float = 0.0,
        num_bessel: int = 8,
        radial_hidden: Sequence[int] = (64, 64),
        envelope_exponent: int = 6,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_integer("degree", degree, 0, MAX_DEGREE)
        check_integer("filter_degree", filter_degree, 0, MAX_DEGREE)
        self.channels = check_integer("channels", channels, 1, 2048)
        check_integer("layers", layers, 1, 64)
        check_integer("heads", heads, 1, 64)
        check_integer("alpha_channels", alpha_channels, 2, 512)
        hidden_channels = channels if hidden_channels is None else hidden_channels
        check_integer("hidden_channels", hidden_channels, 1, 4096)
        self.degree_out = check_integer("degree_out", degree_out, 0, degree)
        check_integer("num_bessel", num_bessel, 1, 256)
        check_integer("envelope_exponent", envelope_exponent, 2, 32)
        check_number("alpha_drop", alpha_drop, 0.0, 0.9)
        check_number("drop_path", drop_path, 0.0, 0.9)
        hidden = check_widths("radial_hidden", radial_hidden, multiple_of=heads)
        check_backend(backend)
        self.cutoff = check_number("cutoff", cutoff, 0.1, 100.0)
        self.elements = check_elements(elements)
        self.checkpointing = check_flag("checkpointing", checkpointing)
        self.num_outputs = 1
        neighbors = check_number("avg_num_neighbors", avg_num_neighbors, 0.0, 1e6)
        selfmix = check_flag("selfmix", selfmix)

        algebra = Algebra(backend, family, parity, order_max)
        sizes = AttentionSizes(heads, alpha_channels, hidden, num_bessel, len(self.elements), neighbors)
        self.envelope_exponent = envelope_exponent
        self.basis = BesselBasis(self.cutoff, num_bessel, envelope_exponent)
        self.embedding = ElementEmbedding(len(self.elements), channels)
        self.edge_embedding = EdgeDegreeEmbedding(algebra, degree, channels, sizes)

        def layer(last: bool) -> EquiformerLayer:
            out = degree_out if last else degree
            # gates pass no degree on to another: what the last layer does not return need not be computed
            middle = out if feedforward == "gate" and not selfmix else degree
            attention = GraphAttention(
                algebra, degree, filter_degree, middle, channels, messages, sizes, float(alpha_drop)
            )
            blocks: list[nn.Module] = [SelfMix(algebra, middle, middle, channels, hidden_channels)] if selfmix else []
            blocks.append(feed_forward(feedforward, algebra, middle, out, channels, hidden_channels))
            norms = [Norm(degree, channels, norm), *(Norm(middle, channels, norm) for _ in blocks)]
            return EquiformerLayer(attention, blocks, norms, float(drop_path))

        self.layers = nn.ModuleList(layer(last=i == layers - 1) for i in range(layers))
        self.norm = Norm(degree_out, channels, norm)

    def forward(self, vectors: Tensor, species: Tensor, senders: Tensor, receivers: Tensor) -> list[Tensor]:
        """Features after the last layer, as :meth:`Backbone.forward` describes: one set [N, lm_out, C]."""
        lengths = torch.linalg.vector_norm(vectors, dim=-1)
        edges = Edges(
            senders,
            receivers,
            species.index_select(0, senders),
            species.index_select(0, receivers),
            self.basis(lengths),
            polynomial_envelope(lengths / self.cutoff, self.envelope_exponent),
            edge_geometries(self, vectors),
        )
        scalars = self.embedding(species)
        embedded = self.edge_embedding(scalars, edges)
        x = embedded + pad_degrees(scalars, math.isqrt(embedded.shape[1]) - 1)
        for layer in self.layers:
            x = self.run(layer, x, edges)
        return [self.norm(x[:, : dim(self.degree_out)])]
