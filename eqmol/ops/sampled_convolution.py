"""Convolution of the gaunt family on samples.

The filter of an edge is zonal about it: its samples are Σ_l w_l Σ_m Y_lm(edge) Y_lm(point). Messages are summed on the samples,
so that a node is sampled and projected once, however many edges it has.

Shapes: N nodes, E edges, G stacked points, C channels, W own weights, H hidden radial features, lm components.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from eqmol.ops import kernels
from eqmol.ops.contract import HarmonicConvolution, RadialWeight
from eqmol.ops.multilinear import partials
from eqmol.ops.sampled import Sampled, chunks, pair_tables
from eqmol.ops.spec import Spec
from eqmol.so3.layout import dim


class SampledConvolution(Sampled, HarmonicConvolution):
    """Zonal filters, multiplied and summed on samples."""

    first: Tensor
    filter: Tensor
    projection: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        tables = pair_tables(self.rule(spec.degree_in + spec.degree_filter, spec.degree_out), spec)
        self.add_table("first", tables.first)
        self.add_table("projection", tables.projection)
        filters = np.zeros((dim(spec.degree_filter), spec.num_weights, len(tables.first)))
        filters[tables.component, tables.own] = tables.second.T
        self.add_table("filter", filters)
        plain = sum(kind == 0 for kind, *_ in spec.own_weights)
        weights = [slice(0, plain), slice(plain, spec.num_weights)]
        self.parts = [(w, g) for w, g in zip(weights, tables.points, strict=True) if w.start < w.stop]

    def forward(
        self,
        x: Tensor,
        geometry: Tensor,
        weight: RadialWeight,
        senders: Tensor,
        receivers: Tensor,
        num_receivers: int,
    ) -> Tensor:
        compiled = kernels.convolution(self, x, geometry, weight, senders, receivers, num_receivers)
        if compiled is not None:
            return compiled
        form = EdgeSum(self, senders, receivers, num_receivers)
        (z,) = partials(form, [4], [x, geometry, weight.hidden, weight.matrix, None])
        return z


class EdgeSum:
    """The form Σ_e Σ_g (x of the sender)_g (filter of the edge)_g (v of the receiver)_g.

    Arguments: x [N, lm_in, C], harmonics [E, lm_filter], hidden [E, H], matrix [H, W, C], v [num_receivers, lm_out, C]; only v
    may be absent.
    """

    def __init__(self, op: SampledConvolution, senders: Tensor, receivers: Tensor, num_receivers: int) -> None:
        self.op, self.senders, self.receivers, self.num_receivers = op, senders, receivers, num_receivers

    def partials(self, slots: Sequence[int], arguments: Sequence[Tensor | None]) -> list[Tensor]:
        x, harmonics, hidden, matrix, v = arguments
        assert x is not None
        assert harmonics is not None
        assert hidden is not None
        assert matrix is not None
        wants_x, wants_harmonics, wants_hidden, wants_matrix, wants_v = (slot in slots for slot in range(5))
        wants_filter = wants_harmonics or wants_hidden or wants_matrix
        num_weights, channels = matrix.shape[1:]
        points = self.op.first.shape[0]
        matrix = matrix.flatten(1)
        filters = self.op.filter.flatten(1)
        x_samples = self.op.first @ x if wants_filter or wants_v else x
        v_samples = x_samples if v is None else self.op.projection @ v

        x_slope = x.new_zeros(x.shape[0], points, channels) if wants_x else x
        v_slope = x.new_zeros(self.num_receivers, points, channels) if wants_v else x
        slopes = [torch.empty_like(harmonics), torch.empty_like(hidden), torch.zeros_like(matrix)]
        for edges in chunks(len(harmonics), points * channels, x):
            senders, receivers = self.senders[edges], self.receivers[edges]
            weight = (hidden[edges] @ matrix).view(-1, num_weights, channels)
            basis = (harmonics[edges] @ filters).view(-1, num_weights, points)
            if wants_x or wants_v:
                values = self._filter_samples(basis, weight)
            sent = x_samples.index_select(0, senders) if wants_filter or wants_v else x
            received = v_samples.index_select(0, receivers) if wants_filter or wants_x else x
            if wants_v:
                v_slope.index_add_(0, receivers, values * sent)
            if wants_x:
                x_slope.index_add_(0, senders, values.mul_(received))
            if wants_filter:
                product = received.mul_(sent)
                if wants_hidden or wants_matrix:
                    slope = self._onto(basis, product).flatten(1)
                    torch.mm(slope, matrix.T, out=slopes[1][edges])
                    slopes[2].addmm_(hidden[edges].T, slope)
                if wants_harmonics:
                    slope = self._onto(weight, product.mT).flatten(1)
                    torch.mm(slope, filters.T, out=slopes[0][edges])
        results = {1: slopes[0], 2: slopes[1], 3: slopes[2].view(-1, num_weights, channels)}
        if wants_x:
            results[0] = self.op.first.T @ x_slope
        if wants_v:
            results[4] = self.op.projection.T @ v_slope
        return [results[slot] for slot in slots]

    def _filter_samples(self, basis: Tensor, weight: Tensor) -> Tensor:
        """[e, W, G] and [e, W, C] -> [e, G, C]."""
        if len(self.op.parts) == 1:
            return basis.mT @ weight
        return torch.cat([basis[:, w, g].mT @ weight[:, w] for w, g in self.op.parts], 1)

    def _onto(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b
