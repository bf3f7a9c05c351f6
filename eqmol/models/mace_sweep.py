"""A MACE whose weights are constants, forwards and back: features and their derivatives by the edge vectors, by compiled code.

Small systems spend their time between operations, in recording them and in going through the record. Here a layer is a handful
of calls and its way back another, written out once, and all layers are one node of autograd, differentiable once.

Shapes: N nodes, E edges, lm = (degree + 1)² components, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from eqmol.models.backbone import Read
from eqmol.models.mixing import MixingSum
from eqmol.models.radial_tables import FIRST, Grid
from eqmol.nn import GroupLinear, Linear
from eqmol.ops import kernels
from eqmol.ops.contract import TensorProduct, one_after_another, side_by_side
from eqmol.ops.kernels.forms import NODES, ConstantPower, Groups
from eqmol.ops.kernels.geometry import EdgeGeometry, geometry_kernels
from eqmol.ops.kernels.maps import ChannelMaps, Sorted, maps_kernel
from eqmol.ops.kernels.replay import do, note, recorded
from eqmol.ops.kernels.stretches import SIZE
from eqmol.ops.kernels.tabulated import TabulatedConvolution, TabulatedEdges, constant_convolution
from eqmol.ops.spec import Spec
from eqmol.so3.layout import dim

if TYPE_CHECKING:
    from eqmol.models.mace import MACELayer

#: Most edges and nodes whose memory is kept for the next evaluation: there is one stretch of each.
MOST_EDGES, MOST_NODES = 2 * SIZE - 1, 2 * NODES - 1


class Nodes(NamedTuple):
    """Nodes in one group, and grouped by their elements."""

    all: Sorted
    elements: Sorted


class ConstantLayer(NamedTuple):
    """What a layer computes with, made of its weights."""

    spec: Spec
    up: ChannelMaps
    convolution: TabulatedConvolution
    mix: ChannelMaps
    mixes_by_element: bool
    power: ConstantPower
    down: ChannelMaps
    residual: ChannelMaps | None

    @classmethod
    def of(cls, layer: MACELayer) -> ConstantLayer | None:
        """That of a layer with a table; None where compiled code does not do all that it does."""
        op, weight, table, mode = layer.convolution, layer.power_weight, layer.table, kernels.mode(layer.power)
        if layer.density is not None or table is None or table.weights is None or isinstance(op, MixingSum):
            return None
        convolution = constant_convolution(op, table.weights)
        power = ConstantPower.of(layer.power, weight, mode) if kernels.can_run(layer.power, weight) else None
        kernel = None if power is None else maps_kernel(weight.dtype, mode)
        if convolution is None or power is None or kernel is None:
            return None

        def maps(linear: Linear | GroupLinear, factor: float) -> ChannelMaps:
            return ChannelMaps(kernel, linear.weight, factor / math.sqrt(linear.weight.shape[-2]))

        share = 1.0 if layer.residual is None else math.sqrt(1 / 2)
        return cls(
            op.spec,
            maps(layer.up, 1.0),
            convolution,
            maps(layer.mix, layer.message_scale),
            isinstance(layer.mix, GroupLinear),
            power,
            maps(layer.down, share),
            None if layer.residual is None else maps(layer.residual, share),
        )

    def forward(self, x: Tensor, edges: TabulatedEdges, nodes: Nodes) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Features [N, lm_in, C] -> [N, lm_out, C], and what :meth:`backward` needs."""
        sent = self.up(x, nodes.all)
        messages = _again(side_by_side, self.spec, self.convolution(sent, edges, x.shape[0]))
        fields = self.mix(messages, nodes.elements if self.mixes_by_element else nodes.all)
        result = self.down(self.power(fields, nodes.elements), nodes.all)
        if self.residual is not None:
            self.residual(x, nodes.elements, onto=result)
        return result, (sent, fields)

    def backward(
        self, v: Tensor, kept: tuple[Tensor, Tensor], edges: TabulatedEdges, nodes: Nodes, by_features: bool
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """Derivatives of Σ v · result by features, where asked for, harmonics and fractions."""
        sent, fields = kept
        by_fields = self.power.back(fields, self.down.back(v, nodes.all), nodes.elements)
        by_messages = self.mix.back(by_fields, nodes.elements if self.mixes_by_element else nodes.all)
        rows = _again(one_after_another, self.spec, by_messages)
        by_sent, by_harmonics, by_fraction = self.convolution.slopes(sent, edges, rows)
        if not by_features:
            return None, by_harmonics, by_fraction
        by_x = self.up.back(by_sent, nodes.all)
        if self.residual is not None:
            self.residual.back(v, nodes.elements, onto=by_x)
        return by_x, by_harmonics, by_fraction


def _again(layout: Callable[[Spec, Tensor], Tensor], spec: Spec, rows: Tensor) -> Tensor:
    """Rows in another layout, contiguous; written again when what is recorded is repeated."""
    result = layout(spec, rows).contiguous()
    if result.data_ptr() != rows.data_ptr():
        note(lambda: result.copy_(layout(spec, rows)))
    return result


class Pass:
    """All layers once, forwards and back.

    Args:
        layers: one after another.
        x: features of the nodes [N, 1, C].
        edges, nodes: as the layers take them.
    """

    def __init__(self, layers: Sequence[ConstantLayer], x: Tensor, edges: TabulatedEdges, nodes: Nodes) -> None:
        self._layers, self._edges, self._nodes = layers, edges, nodes
        self.features: list[Tensor] = []
        self._kept = []
        for layer in layers:
            x, needed = layer.forward(x, edges, nodes)
            self.features.append(x)
            self._kept.append(needed)

    def back(self, gradients: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Derivatives of Σ gradient · features by harmonics and fractions; what is needed for them is gone."""
        v = gradients[-1]
        by_harmonics, by_fraction = None, None
        for i in reversed(range(len(self._layers))):
            before, *more = self._layers[i].backward(v, self._kept.pop(), self._edges, self._nodes, by_features=i > 0)
            if by_harmonics is None or by_fraction is None:
                by_harmonics, by_fraction = more
            else:
                do(partial(by_harmonics.add_, more[0]))
                do(partial(by_fraction.add_, more[1]))
            if before is not None:
                do(partial(before.add_, gradients[i - 1]))
                v = before
        assert by_harmonics is not None
        assert by_fraction is not None
        return by_harmonics, by_fraction


class Replay:
    """A pass that is done again and again on the same nodes and in the same memory, with other edges, of which there may be fewer.

    Args:
        layers, x, nodes: see :class:`Pass`.
        species: of the nodes, to know them again.
        edges: room for edges, with those of now.
    """

    def __init__(
        self, layers: Sequence[ConstantLayer], x: Tensor, nodes: Nodes, species: Tensor, edges: TabulatedEdges
    ) -> None:
        self.edges, self._species = edges, species.clone()
        with recorded() as self._forward:
            found = Pass(layers, x, edges, nodes)
        self.features = found.features
        self.gradients = [torch.zeros_like(x) for x in self.features]
        with recorded() as self._back:
            self._slopes = found.back(self.gradients)

    def suits(self, species: Tensor, number: int) -> bool:
        """Whether nodes are the same, and so many edges have room."""
        return number <= self.edges.fraction.shape[0] and torch.equal(self._species, species)

    def forward(self) -> list[Tensor]:
        """Features of the edges of now."""
        for step in self._forward:
            step()
        return self.features

    def back(self, slopes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """As :meth:`Pass.back`, of derivatives by the first component of features alone."""
        for gradient, slope in zip(self.gradients, slopes, strict=True):
            gradient[:, 0] = slope
        for step in self._back:
            step()
        return self._slopes


class Sweep:
    """What a model's features are made by while its weights are constants.

    Args:
        layers: see :class:`ConstantLayer`.
        geometry: of the edges.
        grid: of the tables.
        num_elements: of the model.
    """

    def __init__(self, layers: list[ConstantLayer], geometry: EdgeGeometry, grid: Grid, num_elements: int) -> None:
        self.layers, self._geometry, self._grid, self._num_elements = layers, geometry, grid, num_elements
        self._degree = layers[0].spec.degree_filter
        self._replays: list[Replay] = []

    def edges(self, vectors: Tensor, species: Tensor, ends: tuple[Tensor, Tensor]) -> TabulatedEdges | None:
        """Edges of vectors [E, 3]; None if one is shorter than the tables."""
        number = len(vectors)
        row, like = torch.empty(number, dtype=torch.int64), vectors.new_empty(number)
        indices = ends[0].contiguous(), ends[1].contiguous(), row
        edges = TabulatedEdges.of(like.new_empty(number, dim(self._degree)), like, indices)
        return edges if self._write(vectors, species, ends, edges) else None

    def _write(self, vectors: Tensor, species: Tensor, ends: tuple[Tensor, Tensor], edges: TabulatedEdges) -> bool:
        if not self._geometry.write(vectors, ends, len(species), edges):
            return False
        if self._grid.num_elements:
            edges.indices[2][: len(vectors)] += self._grid.first_rows((species[ends[0]], species[ends[1]]))
        return True

    def nodes(self, species: Tensor) -> Nodes:
        """As the layers take them."""
        number = len(species)
        every = Groups(None, number, 1, species.device)
        return Nodes(every.in_stretches(), Groups(species, number, self._num_elements, species.device).in_stretches())

    def slopes(self, vectors: Tensor, by_harmonics: Tensor, by_fraction: Tensor) -> Tensor:
        """Derivatives by vectors [E, 3]."""
        return self._geometry.slopes(vectors, by_harmonics, by_fraction)

    def read(
        self,
        vectors: Tensor,
        embed: Callable[[Tensor], Tensor],
        species: Tensor,
        ends: tuple[Tensor, Tensor],
        read: Read,
    ) -> tuple[Tensor, Tensor] | None:
        """What is read from the features, and derivatives of its sum by the vectors; None if edges are shorter than the tables.

        The memory of few atoms is kept for the next evaluation.

        Args:
            vectors: [E, 3].
            embed: gives features of the nodes by their elements.
            species: of the nodes [N].
            ends: senders and receivers [E].
            read: see :data:`eqmol.models.backbone.Read`.
        """
        number = len(vectors)
        if number > MOST_EDGES or len(species) > MOST_NODES:
            edges = self.edges(vectors, species, ends)
            if edges is None:
                return None
            once = Pass(self.layers, embed(species), edges, self.nodes(species))
            values, slopes = read(once.features)
            gradients = [torch.zeros_like(x) for x in once.features]
            for gradient, slope in zip(gradients, slopes, strict=True):
                gradient[:, 0] = slope
            return values, self.slopes(vectors, *once.back(gradients))
        # whoever comes meanwhile finds none and makes another
        replay = self._replays.pop() if self._replays else None
        if replay is not None and not replay.suits(species, number):
            replay = None
        room = number + number // 4 + 8
        edges = TabulatedEdges.room(room, dim(self._degree), vectors) if replay is None else replay.edges
        edges.by_receiver[1] = number
        if not self._write(vectors, species, ends, edges):
            return None
        if replay is None:
            replay = Replay(self.layers, embed(species), self.nodes(species), species, edges)
            features = replay.features
        else:
            features = replay.forward()
        values, slopes = read(features)
        gradient = self.slopes(vectors, *replay.back(slopes))
        self._replays = [replay]
        return values, gradient


_known: WeakKeyDictionary[nn.Module, tuple[list[object], Sweep | None]] = WeakKeyDictionary()


def sweep_of(model: nn.Module, layers: Sequence[MACELayer], grid: Grid, num_elements: int) -> Sweep | None:
    """That of a model, made anew when it has other tables or may use other kernels; None where a layer has none."""
    ops = [op for layer in layers for op in (layer.convolution, layer.power) if isinstance(op, TensorProduct)]
    state: list[object] = [kernels.default(), *(op.kernels for op in ops), *(layer.table for layer in layers)]
    before, found = _known.get(model, ([], None))
    if len(before) != len(state) or any(a is not b for a, b in zip(before, state, strict=True)):
        made = [made for layer in layers if (made := ConstantLayer.of(layer)) is not None]
        found = None
        if len(made) == len(layers) and (geometry := _geometry(layers[0], grid)) is not None:
            found = Sweep(made, geometry, grid, num_elements)
        _known[model] = state, found
    return found


def _geometry(layer: MACELayer, grid: Grid) -> EdgeGeometry | None:
    op, dtype = layer.convolution, layer.power_weight.dtype
    assert isinstance(op, TensorProduct)
    made = geometry_kernels(op.spec.degree_filter, dtype, kernels.mode(op))
    return None if made is None else EdgeGeometry(made, FIRST, grid.cutoff, grid.step, grid.nodes - 2, dtype)


class Features(torch.autograd.Function):
    """Features after each layer, of the edge vectors [E, 3]."""

    @staticmethod
    def forward(
        ctx: Any, vectors: Tensor, sweep: Sweep, edges: TabulatedEdges, x: Tensor, species: Tensor
    ) -> tuple[Tensor, ...]:
        found = Pass(sweep.layers, x, edges, sweep.nodes(species))
        if ctx.needs_input_grad[0]:
            ctx.rest = sweep, vectors, found
        return tuple(found.features)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        sweep, vectors, found = ctx.rest
        return sweep.slopes(vectors, *found.back([g.contiguous() for g in gradients])), *[None] * 4
