"""An Equiformer-style backbone: blocks of equivariant graph attention and feed-forward networks.

Source: Liao et al. 2023, arXiv:2306.12059 (EquiformerV2), with any tensor product of :mod:`eqmol.ops`; the optional product
block after Luo et al. 2024, arXiv:2401.10216.

Shapes: N nodes, E edges, lm = (degree + 1)² components, C channels.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from eqmol.errors import InputError, short
from eqmol.models.arguments import check_backend, check_elements, check_flag, check_integer, check_number, check_widths
from eqmol.models.attention import MESSAGES, AttentionSizes, Edges, GraphAttention
from eqmol.models.backbone import Backbone, edge_geometries
from eqmol.models.feedforward import SelfMix, feed_forward
from eqmol.models.so2_attention import Activation, MessageSizes, SO2Attention
from eqmol.nn import (
    BesselBasis,
    DropPath,
    ElementEmbedding,
    GaussianBasis,
    Norm,
    NormKind,
    RadialMatrix,
    pad_degrees,
    polynomial_envelope,
)
from eqmol.ops import Algebra, RadialWeight
from eqmol.ops.registry import Backend
from eqmol.ops.spec import MAX_DEGREE, Family, Parity
from eqmol.so3.layout import dim

Basis = Literal["bessel", "gaussian"]
DropPathOf = Literal["atoms", "graphs"]


class EdgeDegreeEmbedding(nn.Module):
    """Σ over edges of w_l(length, elements) · embedding of the sender · Y_l: all degrees, before any layer."""

    def __init__(self, algebra: Algebra, degree: int, channels: int, sizes: AttentionSizes) -> None:
        super().__init__()
        self.scale = 1 / math.sqrt(max(sizes.avg_num_neighbors, 1.0))
        self.radial = sizes.pair_network()
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

    def __init__(self, attention: nn.Module, node_blocks: list[nn.Module], norms: list[Norm], drop: float) -> None:
        super().__init__()
        self.attention = attention
        self.node_blocks = nn.ModuleList(node_blocks)
        self.norms = nn.ModuleList(norms)
        self.drop_path = DropPath(drop)

    def forward(self, x: Tensor, edges: Edges) -> Tensor:
        """[N, lm_in, C] -> [N, lm_out, C]."""
        first, *others = self.norms
        x = self._add(x, self.attention(first(x), edges), edges)
        for norm, block in zip(others, self.node_blocks, strict=True):
            x = self._add(x, block(norm(x)), edges)
        return x

    def _add(self, x: Tensor, branch: Tensor, edges: Edges) -> Tensor:
        return x[:, : branch.shape[1]] + self.drop_path(branch, edges.graphs)


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
        messages: ``linear`` in the sender's features, ``nonlinear`` (convolve, gate, convolve), or ``so2``, in which channels and
            degrees mix, see :class:`SO2Attention`: coupled family, without a filter.
        feedforward: ``product`` of gated fields, ``gate`` alone, or, not exactly equivariant, on the sphere: ``s2`` (pointwise
            activation) or ``grid`` (a perceptron at every point).
        selfmix: add a block of products of differently mixed fields to every layer.
        norm: ``rms`` or ``layer``, see :class:`eqmol.nn.Norm`.
        order_max: highest order of convolutions in the edge frame; None: all. Coupled family, ``filter_degree`` twice
            ``degree``.
        message_channels, value_channels: with ``so2`` messages, channels inside, by default C, and values of each head, by default
            C over ``heads``.
        activation: of ``so2`` messages: ``gate``, or ``s2``, pointwise on the sphere and not exactly equivariant.
        order_factors: factors of ``so2`` messages differ between orders, not between degrees and channels alone.
        grid_resolution: azimuths of the sphere's grid, on which the error of rotations depends; None: about four times ``degree``.
        basis: radial basis, ``bessel`` or ``gaussian``.
        basis_width: Å, of the Gaussians; None: twice their spacing, so that more of them are narrower.
        element_channels: width of embeddings of both elements beside the radial basis; None: a shift of the first hidden layer.
        degree_out: highest degree of the last features; 1 for direct forces.
        force_attention: the vectors among the last features are made by an attention of their own, of all degrees.
        alpha_drop, drop_path: probabilities that training leaves out an attention weight, or a residual branch.
        drop_path_of: whose residual branches are left out, ``atoms`` or whole ``graphs``.
        num_bessel: number of radial basis functions.
        bessel_decay: how fast their amplitudes fall with their number, see :class:`eqmol.nn.BesselBasis`.
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
        message_channels: int | None = None,
        value_channels: int | None = None,
        activation: Activation = "gate",
        order_factors: bool = False,
        grid_resolution: int | None = None,
        basis: Basis = "bessel",
        element_channels: int | None = None,
        force_attention: bool = False,
        drop_path_of: DropPathOf = "atoms",
        basis_width: float | None = None,
        bessel_decay: float = 0.0,
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
        check_integer("num_bessel", num_bessel, 2 if basis == "gaussian" else 1, 1024)
        check_integer("envelope_exponent", envelope_exponent, 2, 32)
        if check_number("bessel_decay", bessel_decay, 0.0, 4.0) and basis != "bessel":
            raise InputError(
                f"bessel_decay={bessel_decay} is that of basis=bessel, but basis={short(basis)}; give bessel_decay=0"
            )
        check_number("alpha_drop", alpha_drop, 0.0, 0.9)
        check_number("drop_path", drop_path, 0.0, 0.9)
        hidden = check_widths("radial_hidden", radial_hidden, multiple_of=heads)
        check_backend(backend)
        self.cutoff = check_number("cutoff", cutoff, 0.1, 100.0)
        self.elements = check_elements(elements)
        self.checkpointing = check_flag("checkpointing", checkpointing)
        self.num_outputs = 1
        self.hops = layers + 1  # the embedding of edges is one more
        neighbors = check_number("avg_num_neighbors", avg_num_neighbors, 0.0, 1e6)
        selfmix = check_flag("selfmix", selfmix)
        if messages not in (*MESSAGES, "so2"):
            raise InputError(f"messages={messages!r} is unknown; choose from {', '.join((*MESSAGES, 'so2'))}")
        message_channels = channels if message_channels is None else message_channels
        check_integer("message_channels", message_channels, 1, 2048)
        value_channels = max(channels // heads, 1) if value_channels is None else value_channels
        check_integer("value_channels", value_channels, 1, 2048)
        check_flag("order_factors", order_factors)
        if grid_resolution is not None:
            check_integer("grid_resolution", grid_resolution, 2 * degree + 1, 256)
        if element_channels is not None:
            check_integer("element_channels", element_channels, 1, 2048)
        if basis not in get_args(Basis):
            raise InputError(f"basis={basis!r} is unknown; choose from {', '.join(get_args(Basis))}")
        if basis_width is not None:
            check_number("basis_width", basis_width, 1e-3, 100.0)
            if basis != "gaussian":
                raise InputError(
                    f"basis_width={basis_width} is that of Gaussians, but basis={basis}; give basis=gaussian"
                )
        if drop_path_of not in get_args(DropPathOf):
            raise InputError(f"drop_path_of={drop_path_of!r} is unknown; choose from {', '.join(get_args(DropPathOf))}")
        self.samples_sphere = feedforward in ("s2", "grid") or (messages == "so2" and activation == "s2")
        self.drops_graphs = drop_path_of == "graphs"
        if check_flag("force_attention", force_attention) and degree_out != 1:
            raise InputError(f"force_attention=true makes vectors, but degree_out={degree_out}; give degree_out=1")

        algebra = Algebra(backend, family, parity, order_max)
        sizes = AttentionSizes(
            heads, alpha_channels, hidden, num_bessel, len(self.elements), neighbors, element_channels
        )
        self.envelope_exponent = envelope_exponent
        self.basis = (
            BesselBasis(self.cutoff, num_bessel, envelope_exponent, decay=bessel_decay)
            if basis == "bessel"
            else GaussianBasis(self.cutoff, num_bessel, basis_width)
        )
        self.embedding = ElementEmbedding(len(self.elements), channels)
        self.edge_embedding = EdgeDegreeEmbedding(algebra, degree, channels, sizes)

        def attention(out: int) -> nn.Module:
            if messages == "so2":
                inside = MessageSizes(message_channels, value_channels, activation, grid_resolution, order_factors)
                return SO2Attention(algebra, degree, out, channels, sizes, inside, float(alpha_drop))
            return GraphAttention(algebra, degree, filter_degree, out, channels, messages, sizes, float(alpha_drop))

        def layer(last: bool) -> EquiformerLayer:
            out = degree_out if last and not force_attention else degree
            # gates pass no degree on to another: what the last layer does not return need not be computed
            middle = out if feedforward == "gate" and not selfmix else degree
            passed = attention(middle)  # first, so that a seed gives the weights that it gave
            blocks: list[nn.Module] = [SelfMix(algebra, middle, middle, channels, hidden_channels)] if selfmix else []
            blocks.append(feed_forward(feedforward, algebra, middle, out, channels, hidden_channels, grid_resolution))
            norms = [Norm(degree, channels, norm), *(Norm(middle, channels, norm) for _ in blocks)]
            return EquiformerLayer(passed, blocks, norms, float(drop_path))

        self.layers = nn.ModuleList(layer(last=i == layers - 1) for i in range(layers))
        self.norm = Norm(degree if force_attention else degree_out, channels, norm)
        self.vectors = attention(degree_out) if force_attention else None

    def of_graphs(
        self, vectors: Tensor, species: Tensor, senders: Tensor, receivers: Tensor, graphs: Tensor
    ) -> list[Tensor]:
        """As :meth:`Backbone.of_graphs` describes."""
        return self(vectors, species, senders, receivers, graphs if self.drops_graphs else None)

    def forward(
        self, vectors: Tensor, species: Tensor, senders: Tensor, receivers: Tensor, graphs: Tensor | None = None
    ) -> list[Tensor]:
        """Features after the last layer, as :meth:`Backbone.forward` describes: one set [N, lm_out, C]."""
        lengths = torch.linalg.vector_norm(vectors, dim=-1)
        edges = Edges(
            senders,
            receivers,
            species.index_select(0, senders),
            species.index_select(0, receivers),
            self.basis(lengths),
            polynomial_envelope(lengths / self.cutoff, self.envelope_exponent),
            edge_geometries(self.modules(), vectors),
            graphs,
        )
        scalars = self.embedding(species)
        embedded = self.edge_embedding(scalars, edges)
        x = embedded + pad_degrees(scalars, math.isqrt(embedded.shape[1]) - 1)
        for layer in self.layers:
            x = self.run(layer, x, edges)
        if self.vectors is None:
            return [self.norm(x[:, : dim(self.degree_out)])]
        x = self.norm(x)
        return [torch.cat([x[:, :1], self.run(self.vectors, x, edges)[:, 1:]], dim=1)]
