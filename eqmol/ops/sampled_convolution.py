"""Convolution of the gaunt family on samples.

The filter of an edge is zonal about it: its samples are Σ_l w_l Σ_m Y_lm(edge) Y_lm(point). Messages are summed on the samples,
so that a node is sampled and projected once, however many edges it has.

Shapes: N nodes, E edges, G stacked points, C channels, W own weights, H hidden radial features, lm components.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import reduce

import numpy as np
import torch
from torch import Tensor, nn

from eqmol.ops import kernels
from eqmol.ops.contract import HarmonicConvolution, RadialWeight, Tables
from eqmol.ops.multilinear import partials
from eqmol.ops.sampled import Pairing, Sampled, pairings, projection
from eqmol.ops.spec import Spec
from eqmol.ops.transforms import Dense, Transform, Transforms, chunks
from eqmol.so3.layout import dim


class SampledConvolution(Sampled, HarmonicConvolution):
    """Zonal filters, multiplied and summed on samples."""

    separable_degree = 12  # filters are sampled for every edge
    projection: Transform

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        rule = self.rule(spec.degree_in + spec.degree_filter, spec.degree_out)
        pairs = pairings(rule, spec)
        self.first = Transforms(self.transform(pair.first, rule) for pair in pairs)
        self.projection = self.transform(projection(rule, spec), rule)
        # the two pairings of the curl have filters of the same weights
        kinds = [[pair for pair in pairs if pair.kind == kind] for kind in (0, 1)]
        groups = [group for group in kinds if group]
        filters = [
            make_filter([self.transform(pair.second, rule) for pair in group], group[0], dim(spec.degree_filter))
            for group in groups
        ]
        self.filters = nn.ModuleList(filters)
        size = self.projection.points
        plain = sum(kind == 0 for kind, *_ in spec.own_weights)
        self.num_weights = [plain, spec.num_weights - plain][: len(filters)]
        self.num_points = [size, 2 * size][: len(filters)]
        self.parts = filters

    def forward(
        self, x: Tensor, geometry: Tensor, weight: RadialWeight, senders: Tensor, receivers: Tensor, num_receivers: int
    ) -> Tensor:
        compiled = kernels.convolution(self, x, geometry, weight, senders, receivers, num_receivers)
        if compiled is not None:
            return compiled
        form = EdgeSum(self, senders, receivers, num_receivers)
        (z,) = partials(form, [4], [x, geometry, weight.hidden, weight.matrix, None])
        return z


class Filter(Tables, ABC):
    """Samples of the filter of an edge for unit weights."""

    @abstractmethod
    def basis(self, harmonics: Tensor) -> Tensor:
        """[e, lm] -> [e, W, G]."""

    @abstractmethod
    def adjoint(self, slope: Tensor) -> Tensor:
        """The transpose, [e, W, G] -> [e, lm]."""


class DenseFilter(Filter):
    """By one table, [lm, W · G]."""

    table: Tensor

    def __init__(self, table: np.ndarray) -> None:
        super().__init__()
        self.shape = table.shape[1:]
        self.add_table("table", table.reshape(len(table), -1))

    def basis(self, harmonics: Tensor) -> Tensor:
        return torch.mm(harmonics, self.table).view(-1, *self.shape)

    def adjoint(self, slope: Tensor) -> Tensor:
        return slope.flatten(1) @ self.table.T


class SplitFilter(Filter):
    """By transforms of the components of every weight apart."""

    component: Tensor
    spread: Tensor

    def __init__(self, transforms: Sequence[Transform], component: np.ndarray, spread: np.ndarray, size: int) -> None:
        super().__init__()
        self.transforms, self.size = Transforms(transforms), size
        self.add_table("component", component)
        self.add_table("spread", spread)

    def basis(self, harmonics: Tensor) -> Tensor:
        apart = harmonics.index_select(1, self.component).unsqueeze(2) * self.spread
        return torch.cat([t.by_row(t.sample(apart)) for t in self.transforms], 1).mT

    def adjoint(self, slope: Tensor) -> Tensor:
        parts = slope.mT.chunk(len(self.transforms), 1)
        apart = [t.adjoint(t.of_rows(part)) for t, part in zip(self.transforms, parts, strict=True)]
        own = (torch.stack(apart).sum(0) * self.spread).sum(2)
        return own.new_zeros(len(own), self.size).index_add_(1, self.component, own)


def make_filter(transforms: Sequence[Transform], pairing: Pairing, size: int) -> Filter:
    """The filter of pairings with the weights of one; harmonics have ``size`` components."""
    spread = np.eye(pairing.own[-1] - pairing.own[0] + 1)[pairing.own - pairing.own[0]]
    if not all(isinstance(t, Dense) for t in transforms):
        return SplitFilter(transforms, pairing.component, spread, size)
    samples = np.concatenate([t.exact("table") for t in transforms], 1)
    table = np.zeros((size, spread.shape[1], samples.shape[1]))
    table[pairing.component] = spread[:, :, None] * samples[:, None]
    return DenseFilter(table)


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
        kinds, size = len(self.op.first), self.op.projection.points
        points = kinds * size
        matrix = matrix.flatten(1)
        x_samples = self._by_node(first.sample(x) for first in self.op.first) if wants_filter or wants_v else x
        v_samples = x_samples if v is None else self._by_node([self.op.projection.sample(v)] * kinds)

        x_slope = x.new_zeros(x.shape[0], points, channels) if wants_x else x
        v_slope = x.new_zeros(self.num_receivers, points, channels) if wants_v else x
        slopes = [torch.empty_like(harmonics), torch.empty_like(hidden), torch.zeros_like(matrix)]
        for edges in chunks(len(harmonics), points * channels, x):
            senders, receivers = self.senders[edges], self.receivers[edges]
            weight = (hidden[edges] @ matrix).view(-1, num_weights, channels)
            if wants_x or wants_v or wants_hidden or wants_matrix:
                bases = [part.basis(harmonics[edges]) for part in self.op.parts]
            if wants_x or wants_v:
                values = self._filter_samples(bases, weight)
            sent = x_samples.index_select(0, senders) if wants_filter or wants_v else x
            received = v_samples.index_select(0, receivers) if wants_filter or wants_x else x
            if wants_v:
                v_slope.index_add_(0, receivers, values * sent)
            if wants_x:
                x_slope.index_add_(0, senders, values.mul_(received))
            if wants_filter:
                product = received.mul_(sent)
                if wants_hidden or wants_matrix:
                    slope = self._by_weight(bases, product).flatten(1)
                    torch.mm(slope, matrix.T, out=slopes[1][edges])
                    slopes[2].addmm_(hidden[edges].T, slope)
                if wants_harmonics:
                    slopes[0][edges] = self._by_harmonics(weight, product)
        results = {1: slopes[0], 2: slopes[1], 3: slopes[2].view(-1, num_weights, channels)}
        if wants_x:
            parts = zip(self.op.first, x_slope.split(size, 1), strict=True)
            results[0] = reduce(torch.add, (first.adjoint(first.of_rows(part)) for first, part in parts))
        if wants_v:
            total = reduce(torch.add, v_slope.split(size, 1))
            results[4] = self.op.projection.adjoint(self.op.projection.of_rows(total))
        return [results[slot] for slot in slots]

    def _by_node(self, samples: Iterable[Tensor]) -> Tensor:
        """Samples of several tables -> [N, tables · G, C]."""
        return _cat([self.op.projection.by_row(part) for part in samples]).contiguous()

    def _filter_samples(self, bases: list[Tensor], weight: Tensor) -> Tensor:
        """[e, W, C] -> [e, G, C]."""
        return _cat([b.mT @ w for b, w in zip(bases, self._weights(weight), strict=True)])

    def _by_weight(self, bases: list[Tensor], product: Tensor) -> Tensor:
        """[e, G, C] -> [e, W, C]."""
        return _cat([b @ p for b, p in zip(bases, self._points(product), strict=True)])

    def _by_harmonics(self, weight: Tensor, product: Tensor) -> Tensor:
        """[e, W, C] and [e, G, C] -> [e, lm]."""
        parts = zip(self.op.parts, self._weights(weight), self._points(product), strict=True)
        return reduce(torch.add, (part.adjoint(w @ p.mT) for part, w, p in parts))

    def _weights(self, weight: Tensor) -> Sequence[Tensor]:
        """Of every filter."""
        return [weight] if len(self.op.parts) == 1 else weight.split(self.op.num_weights, 1)

    def _points(self, samples: Tensor) -> Sequence[Tensor]:
        """Of every filter."""
        return [samples] if len(self.op.parts) == 1 else samples.split(self.op.num_points, 1)


def _cat(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)
