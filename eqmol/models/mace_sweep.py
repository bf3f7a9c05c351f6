"""A MACE whose weights are constants, forwards and back: features and their derivatives by the edge vectors, by compiled code.

Small systems spend their time between operations, in recording them and in going through the record. Here a layer is a handful
of calls and its way back another, written out once, and all layers are one node of autograd, differentiable once.

Shapes: N nodes, E edges, lm = (degree + 1)² components, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from eqmol.models.mixing import MixingSum
from eqmol.models.radial_tables import Grid
from eqmol.nn import GroupLinear, Linear
from eqmol.ops import kernels
from eqmol.ops.contract import TensorProduct, one_after_another, side_by_side
from eqmol.ops.kernels.forms import ConstantPower, Groups, check_indices
from eqmol.ops.kernels.maps import ChannelMaps, Sorted, maps_kernel
from eqmol.ops.kernels.tabulated import TabulatedConvolution, TabulatedEdges, constant_convolution
from eqmol.ops.radial_table import Places
from eqmol.ops.spec import Spec
from eqmol.so3.directions import harmonics_of, slopes_of

if TYPE_CHECKING:
    from eqmol.models.mace import MACELayer


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
        if layer.density is not None or table is None or isinstance(op, MixingSum):
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
        messages = side_by_side(self.spec, self.convolution(sent, edges, x.shape[0])).contiguous()
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
        rows = one_after_another(self.spec, by_messages).contiguous()
        by_sent, by_harmonics, by_fraction = self.convolution.slopes(sent, edges, rows)
        if not by_features:
            return None, by_harmonics, by_fraction
        by_x = self.up.back(by_sent, nodes.all)
        if self.residual is not None:
            self.residual.back(v, nodes.elements, onto=by_x)
        return by_x, by_harmonics, by_fraction


_known: WeakKeyDictionary[nn.Module, tuple[list[object], list[ConstantLayer] | None]] = WeakKeyDictionary()


def constant_layers(model: nn.Module, layers: Sequence[MACELayer]) -> list[ConstantLayer] | None:
    """Those of the layers of a model, made anew when it has other tables or may use other kernels; None where one has none."""
    ops = [op for layer in layers for op in (layer.convolution, layer.power) if isinstance(op, TensorProduct)]
    state: list[object] = [kernels.mode(op) for op in ops]
    state += [layer.table for layer in layers]
    before, found = _known.get(model, ([], None))
    if len(before) != len(state) or any(a is not b for a, b in zip(before, state, strict=True)):
        made = [ConstantLayer.of(layer) for layer in layers]
        found = None if any(layer is None for layer in made) else made  # type: ignore[assignment]
        _known[model] = state, found
    return found


class Features(torch.autograd.Function):
    """Features after each layer, of the edge vectors [E, 3]."""

    @staticmethod
    def forward(
        ctx: Any,
        vectors: Tensor,
        layers: list[ConstantLayer],
        grid: Grid,
        places: Places,
        x: Tensor,
        species: Tensor,
        ends: tuple[Tensor, Tensor],
        num_elements: int,
    ) -> tuple[Tensor, ...]:
        degree = layers[0].spec.degree_filter
        number = x.shape[0]
        check_indices("sender", ends[0], number)
        check_indices("receiver", ends[1], number)
        indices = ends[0].contiguous(), ends[1].contiguous(), places.row.contiguous()
        edges = TabulatedEdges(harmonics_of(vectors, degree).contiguous(), places.fraction.contiguous(), indices)
        every, elements = Groups(None, number, 1, x.device), Groups(species, number, num_elements, x.device)
        nodes = Nodes(every.in_stretches(), elements.in_stretches())
        features, kept = [], []
        for layer in layers:
            x, needed = layer.forward(x, edges, nodes)
            features.append(x)
            kept.append(needed)
        if ctx.needs_input_grad[0]:
            ctx.rest = layers, grid, vectors, edges, nodes, kept
        return tuple(features)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        layers, grid, vectors, edges, nodes, kept = ctx.rest
        v: Tensor | None = None
        by_harmonics, by_fraction = torch.zeros_like(edges.harmonics), torch.zeros_like(edges.fraction)
        for i in reversed(range(len(layers))):
            v = gradients[i].contiguous() if v is None else v.add_(gradients[i])
            v, more_harmonics, more_fraction = layers[i].backward(v, kept[i], edges, nodes, by_features=i > 0)
            by_harmonics += more_harmonics
            by_fraction += more_fraction
        lengths = torch.linalg.vector_norm(vectors, dim=-1)
        result = (grid.slopes(lengths, by_fraction) / lengths).unsqueeze(-1) * vectors
        if edges.harmonics.shape[1] > 1:
            result += slopes_of(by_harmonics, edges.harmonics, vectors, layers[0].spec.degree_filter)
        return result, *[None] * 7
