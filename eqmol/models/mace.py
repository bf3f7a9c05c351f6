"""A MACE-style backbone: convolutions whose results are raised to symmetric powers.

Source: Batatia et al. 2022, arXiv:2206.07697, with any tensor product of :mod:`eqmol.ops`, products taken channel by
channel, and channels mixed by linear maps in between.

Shapes: N nodes, E edges, lm = (degree + 1)² components, C channels, K fields.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from eqmol import ops
from eqmol.errors import InputError, short
from eqmol.graph.edges import mirror_images
from eqmol.models.arguments import (
    check_backend,
    check_elements,
    check_flag,
    check_integer,
    check_list,
    check_number,
    check_widths,
)
from eqmol.models.backbone import Backbone, Read, edge_geometries
from eqmol.models.mace_sweep import Features, Sweep, sweep_of
from eqmol.models.mixing import MixingSum, make_convolution
from eqmol.models.radial_tables import FIRST, Grid
from eqmol.nn import (
    DISTANCE_TRANSFORMS,
    BesselBasis,
    DistanceTransform,
    ElementEmbedding,
    GroupLinear,
    Linear,
    RadialNetwork,
    pad_degrees,
)
from eqmol.ops import RadialWeight, kernels
from eqmol.ops.contract import TensorProduct
from eqmol.ops.radial_table import Places, RadialTable, convolve
from eqmol.ops.registry import Backend
from eqmol.ops.spec import MAX_DEGREE, MAX_ORDER, Family, Parity, Spec
from eqmol.so3.kept import has_memory

#: Size of the untrained weights of each order of powers beside those of the order below: what is not learnt of high orders stays
#: small, also where structures are far from those of training.
HIGHER_ORDERS = 0.1


class MACELayer(nn.Module):
    """Convolution, symmetric power with weights per element, and a residual per element.

    x -> linear to B blocks -> convolution / (n m) -> linear to K fields -> power -> linear, then
    (this + linear of x by element) / √2

    Each block has its own radial weights: with as many blocks as paths lead into one degree, the paths of a channel are sums of
    their own until channels mix, as in MACE. Without residual, messages are mixed to fields by the element of the receiver.

    Args:
        convolution: spec of the convolution, or of a mixing, from the features' degree to the degree of the power's input.
        power: spec of the power.
        backend: algorithm, as :func:`eqmol.ops.registry.create` takes it.
        channels: C.
        widen: largest B, the number of blocks of C channels that are convolved; more than paths into one degree are not made.
            ``paths``: the features' own channels are convolved, and every path into a degree goes to a block of its own.
        fields: K, how many differently mixed fields are raised to the power.
        num_elements: number of sets of power and residual weights.
        num_bessel, radial_hidden: sizes of the radial network.
        pair_radial: the radial network knows the elements of both ends.
        avg_num_neighbors: n, mean number of edges per receiver.
        message_size: m, root mean square of the messages / n in the untrained layer.
        is_residual: whether there is a residual.
        is_density: n is 1 + Σ_j tanh(f(r_ij)²) for each atom, f a linear map of the radial basis.
    """

    def __init__(
        self,
        convolution: Spec,
        power: Spec,
        backend: Backend,
        channels: int,
        widen: int | Literal["paths"],
        fields: int,
        num_elements: int,
        num_bessel: int,
        radial_hidden: list[int],
        pair_radial: bool,
        avg_num_neighbors: float,
        message_size: float,
        is_residual: bool = True,
        is_density: bool = False,
    ) -> None:
        super().__init__()
        degree, middle, degree_out = convolution.degree_in, convolution.degree_out, power.degree_out
        self.message_scale = 1 / (message_size if is_density else avg_num_neighbors * message_size)
        self.power = ops.power(power, backend)
        if widen == "paths":
            convolution, copies = convolution.with_separate_paths(), 1
        else:
            copies = min(widen, int(np.bincount(convolution.path_degrees).max()))
        wide = convolution.num_blocks * copies * channels
        self.convolution, num_weights = make_convolution(convolution, backend, copies * channels)
        self.up = Linear(degree, degree, channels, copies * channels)
        self.radial = RadialNetwork(
            num_bessel, radial_hidden, num_weights, copies * channels, num_elements if pair_radial else 0
        )
        self.density = nn.Parameter(torch.randn(num_bessel)) if is_density else None
        self.mix: Linear | GroupLinear
        self.residual: GroupLinear | None
        if is_residual:
            self.mix = Linear(middle, middle, wide, fields * channels)
        else:
            self.mix = GroupLinear(num_elements, middle, middle, wide, fields * channels)
        self.power_weight = nn.Parameter(torch.randn(num_elements, power.num_weights, fields * channels))
        if not self.power_weight.is_meta:  # a model that is being loaded has no numbers yet
            sizes = torch.tensor([HIGHER_ORDERS ** (order - 1) for order in power.weight_orders])
            self.power_weight.data.mul_(sizes[:, None])
        self.down = Linear(degree_out, degree_out, fields * channels, channels)
        if is_residual:
            self.residual = GroupLinear(num_elements, degree, min(degree, degree_out), channels, channels)
        else:
            self.residual = None
        self.table: RadialTable | None = None

    def forward(
        self,
        x: Tensor,
        basis: Tensor | None,
        places: Places | None,
        ends: tuple[Tensor, Tensor],
        geometry: object,
        edges: tuple[Tensor, Tensor],
        species: Tensor,
    ) -> Tensor:
        """Features [N, lm_in, C] -> [N, lm_out, C], given radial basis [E, B] or places in the table, elements of both ends,
        geometry and ends of the edges.
        """
        if places is not None:
            assert self.table is not None
            assert not isinstance(self.convolution, MixingSum)
            messages = convolve(self.convolution, self.up(x), geometry, self.table, places, *edges, len(x))
        else:
            assert basis is not None
            weight = RadialWeight(*self.radial(basis, ends))
            messages = self.convolution(self.up(x), geometry, weight, *edges, len(x))
        if self.density is not None:
            assert basis is not None
            near = torch.tanh((basis @ self.density / math.sqrt(len(self.density))) ** 2)
            crowd = near.new_ones(len(x)).index_add(0, edges[1], near)
            messages = messages / crowd[:, None, None]
        if isinstance(self.mix, GroupLinear):
            fields = self.mix(messages, species, self.message_scale)
        else:
            fields = self.mix(messages, self.message_scale)
        del messages  # they are as large as all that is kept
        power = self.power(fields, self.power_weight, species)
        if self.residual is None:
            return self.down(power)
        residual = self.residual(x, species, math.sqrt(1 / 2))
        return self.down(power, math.sqrt(1 / 2)) + pad_degrees(residual, self.power.spec.degree_out)


class MACE(Backbone):
    """Node features from edge vectors and elements.

    Args:
        backend: name of the tensor-product algorithm, or one name per operation.
        family, parity: function family and selection rule of the products, see :mod:`eqmol.ops.spec`.
        degree: highest degree of the features between layers.
        filter_degree: highest degree of the edges' harmonics, and of the fields that are raised to powers.
        channels: C.
        layers: number of layers; each widens the receptive field by one cutoff.
        correlation: highest order of the powers; order ν couples ν neighbours at once.
        fields: K, how many differently mixed fields are raised to powers (K · C channels).
        cutoff: Å.
        elements: atomic numbers; their order is the order of the per-element parameters.
        avg_num_neighbors: mean number of edges per atom in the training set.
        num_bessel: number of radial basis functions.
        bessel_decay: how fast their amplitudes fall with their number, see :class:`eqmol.nn.BesselBasis`.
        radial_hidden: widths of the radial network's hidden layers.
        pair_radial: radial networks know the elements of both ends of an edge, not its length alone.
        envelope_exponent: exponent of the radial envelope.
        degree_out: highest degree of the last layer's features; 1 for direct forces.
        message_size: per layer, what messages are divided by besides ``avg_num_neighbors``; None: 1.
        checkpointing: recompute the activations of each layer in the backward pass: less memory, more time.
        widen: how many blocks of C channels are convolved, each with radial weights of its own, before they mix to fields; at most
            as many as a layer has paths into one degree, which then are kept apart as in MACE. ``paths``: no more than that, each
            path into a degree goes to a block of its own, which costs less; coupled family only.
        messages: ``depthwise``, channel by channel, or ``so2``, in which channels and degrees mix, see
            :class:`eqmol.ops.Mixing`: coupled family, whatever that of the powers.
        first_residual: whether the first layer has a residual; without, its messages are mixed by element.
        density: divide messages by 1 + Σ_j tanh(f(r_ij)²), f a learnt linear map of the radial basis, in place of
            ``avg_num_neighbors``.
        distance_transform: ``agnesi`` or ``soft``, what radial functions see in place of the distance; or a mapping of ``kind`` and
            constants, see :mod:`eqmol.nn.distance`. None: the distance.

    Raises:
        InputError: an argument of the wrong type or out of bounds, or a backend that cannot run the family.
    """

    def __init__(
        self,
        backend: Backend,
        family: Family,
        parity: Parity,
        degree: int,
        filter_degree: int,
        channels: int,
        layers: int,
        correlation: int,
        fields: int,
        cutoff: float,
        elements: list[int],
        avg_num_neighbors: float,
        num_bessel: int = 8,
        radial_hidden: Sequence[int] = (64, 64, 64),
        pair_radial: bool = False,
        envelope_exponent: int = 6,
        degree_out: int = 0,
        checkpointing: bool = False,
        message_size: Sequence[float] | None = None,
        widen: int | Literal["paths"] = 1,
        messages: str = "depthwise",
        first_residual: bool = True,
        density: bool = False,
        distance_transform: str | Mapping[str, object] | None = None,
        bessel_decay: float = 0.0,
    ) -> None:
        super().__init__()
        if messages not in ("depthwise", "so2"):
            raise InputError(f"messages={short(messages)} is unknown; choose from depthwise, so2")
        check_integer("degree", degree, 0, MAX_DEGREE)
        check_integer("filter_degree", filter_degree, 0, MAX_DEGREE)
        check_integer("correlation", correlation, 1, MAX_ORDER)
        check_integer("channels", channels, 1, 2048)
        check_integer("layers", layers, 1, 16)
        check_integer("fields", fields, 1, 16)
        if widen != "paths":
            check_integer("widen", widen, 1, 64)
        elif family != "coupled" or messages != "depthwise":
            raise InputError(
                f"widen=paths is for family=coupled and messages=depthwise; with family={family} and messages={messages} give a "
                f"number of blocks"
            )
        check_integer("num_bessel", num_bessel, 1, 256)
        check_integer("envelope_exponent", envelope_exponent, 2, 32)
        check_number("bessel_decay", bessel_decay, 0.0, 4.0)
        hidden = check_widths("radial_hidden", radial_hidden)
        check_backend(backend)
        self.degree_out = check_integer("degree_out", degree_out, 0, MAX_DEGREE)
        self.checkpointing = check_flag("checkpointing", checkpointing)
        check_flag("pair_radial", pair_radial)
        check_flag("first_residual", first_residual)
        check_flag("density", density)
        self.cutoff = check_number("cutoff", cutoff, 0.1, 100.0)
        self.elements = check_elements(elements)
        self.channels = channels
        self.num_outputs = self.hops = layers
        neighbors = check_number("avg_num_neighbors", avg_num_neighbors, 0.0, 1e6)

        message_size = [1.0] * layers if message_size is None else check_list("message_size", message_size, layers)
        if len(message_size) != layers:
            raise InputError(f"message_size has {len(message_size)} numbers for {layers} layers; give one per layer")

        self.embedding = ElementEmbedding(len(self.elements), channels)
        transform = _transform(distance_transform, self.elements)
        self.basis = BesselBasis(self.cutoff, num_bessel, envelope_exponent, transform, bessel_decay)
        # the first layer's features are scalars, and the readout of energies needs no more of the last
        degrees = [0, *[degree] * (layers - 1), degree_out]
        self.layers = nn.ModuleList(
            MACELayer(
                Spec("mixing", "coupled", parity, degree_in, degree_in + filter_degree, filter_degree)
                if messages == "so2"
                else Spec("convolution", family, parity, degree_in, filter_degree, filter_degree),
                Spec("power", family, parity, filter_degree, 0, degree_out, correlation),
                backend,
                channels,
                widen,
                fields,
                len(self.elements),
                num_bessel,
                hidden,
                pair_radial,
                max(neighbors, 1.0),
                check_number("each of message_size", rms, 1e-9, 1e9),
                first_residual or number > 0,
                density,
            )
            for number, ((degree_in, degree_out), rms) in enumerate(zip(pairwise(degrees), message_size, strict=True))
        )
        self.density = density
        self.is_pairwise = pair_radial or transform is not None
        self.grid: Grid | None = None

    def of_graphs(
        self, vectors: Tensor, species: Tensor, senders: Tensor, receivers: Tensor, graphs: Tensor
    ) -> list[Tensor]:
        """As :meth:`Backbone.of_graphs`. In training, an edge and its way back share the radial network, so that derivatives by
        the vectors of both are given to one.
        """
        pairs = mirror_images(vectors, senders, receivers) if self._shares(vectors) else None
        if pairs is not None:
            order = pairs.flatten()
            vectors, senders, receivers = (t.index_select(0, order) for t in (vectors, senders, receivers))
        return self(vectors, species, senders, receivers, pairs is not None)

    def forward(
        self, vectors: Tensor, species: Tensor, senders: Tensor, receivers: Tensor, is_paired: bool = False
    ) -> list[Tensor]:
        """Features after each layer, as :meth:`Backbone.forward` describes; the last has degree ``degree_out``.

        With ``is_paired``, every second edge is the way back of the one before it.
        """
        sweep = self._sweep(vectors)
        if sweep is not None and (edges := sweep.edges(vectors.detach(), species, (senders, receivers))) is not None:
            return list(Features.apply(vectors, sweep, edges, self.embedding(species), species))
        layers = [layer for layer in self.layers if isinstance(layer, MACELayer)]
        lengths = torch.linalg.vector_norm(vectors[::2] if is_paired else vectors, dim=-1)
        ends = species.index_select(0, senders), species.index_select(0, receivers)
        places = None if self.grid is None or self.training else self.grid.places(lengths, ends)
        basis = self.basis(lengths, ends) if places is None or self.density else None
        geometries = edge_geometries((part for layer in layers for part in layer.convolution.modules()), vectors)
        x = self.embedding(species)
        features = []
        for layer in layers:
            geometry = geometries[layer.convolution.geometry_key]
            x = self.run(layer, x, basis, places, ends, geometry, (senders, receivers), species)
            features.append(x)
        return features

    def read(
        self, vectors: Tensor, species: Tensor, senders: Tensor, receivers: Tensor, read: Read
    ) -> tuple[Tensor, Tensor] | None:
        """As :meth:`Backbone.read` describes."""
        sweep = self._sweep(vectors)
        return None if sweep is None else sweep.read(vectors, self.embedding, species, (senders, receivers), read)

    def _sweep(self, vectors: Tensor) -> Sweep | None:
        """What makes features of vectors while weights are constants, where compiled code does all of it."""
        if self.grid is None or self.training or not has_memory(vectors):
            return None
        layers = [layer for layer in self.layers if isinstance(layer, MACELayer)]
        return sweep_of(self, layers, self.grid, len(self.elements))

    def _shares(self, vectors: Tensor) -> bool:
        """Whether an edge and its way back may share a row of radial weights: these know the length alone, and kernels take it."""
        if not self.training or self.is_pairwise or self.density:
            return False
        convolutions = [layer.convolution for layer in self.layers if isinstance(layer, MACELayer)]
        return all(
            isinstance(op, TensorProduct) and kernels.share_weights(op, vectors.device, vectors.dtype)
            for op in convolutions
        )

    def tabulate(self, nodes: int | None) -> bool:
        """As :meth:`Backbone.tabulate` describes; the tables are those of the weights and the precision that the model has now.

        Where kernels do all that a layer does, its other weights are taken as they are at the first evaluation, and features are
        differentiable once, by the vectors alone.
        """
        layers = [layer for layer in self.layers if isinstance(layer, MACELayer)]
        self.grid = None
        for layer in layers:
            layer.table = None
        mixes = any(isinstance(layer.convolution, MixingSum) for layer in layers)
        if nodes is None or self.cutoff < 2 * FIRST or mixes:
            return False
        grid = Grid(self.cutoff, nodes, len(self.elements) if self.is_pairwise else 0)
        for layer in layers:
            op, matrix = layer.convolution, layer.radial.matrix
            compiled = isinstance(op, TensorProduct) and matrix.device.type == "cpu" and kernels.can_run(op, matrix)
            layer.table = grid.tabulate(self.basis, layer.radial, compiled)
            if layer.table is None:
                return False
        self.grid = grid
        return True

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or cast the model; it has no tables afterwards."""
        self.tabulate(None)
        return super()._apply(fn, recurse)

    def table_error(self, shortest: Tensor | None = None) -> tuple[float, float]:
        """As :meth:`Backbone.table_error` describes."""
        layers = [layer for layer in self.layers if isinstance(layer, MACELayer)]
        errors = [
            self.grid.error(self.basis, layer.radial, layer.table, shortest)
            for layer in layers
            if self.grid is not None and layer.table is not None
        ]
        seen, others = zip(*errors, strict=True) if errors else ((), ())
        return max(seen, default=0.0), max(others, default=0.0)

    @property
    def table_nodes(self) -> int | None:
        """As :attr:`Backbone.table_nodes` describes."""
        return None if self.grid is None else self.grid.nodes


def _transform(given: object, elements: list[int]) -> DistanceTransform | None:
    """The transform of a name, or of a mapping of ``kind`` and constants."""
    if given is None:
        return None
    constants = dict(given) if isinstance(given, Mapping) else {"kind": given}
    kind = constants.pop("kind", None)
    if not isinstance(kind, str) or kind not in DISTANCE_TRANSFORMS:
        raise InputError(
            f"distance_transform={short(given)} is unknown; choose {' or '.join(DISTANCE_TRANSFORMS)}, or null"
        )
    transform, known = DISTANCE_TRANSFORMS[kind]
    for name in constants:
        if name not in known:
            raise InputError(f"distance_transform={kind} has no constant {short(name)}; it has {', '.join(known)}")
    numbers = {str(name): check_number(f"{name} of {kind}", value, 1e-3, 1e3) for name, value in constants.items()}
    return transform(elements, **numbers)
