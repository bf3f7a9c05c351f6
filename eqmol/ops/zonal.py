"""Convolution of the gaunt family in the frame of the edge, where the filter has order 0 alone: by Fourier series in θ.

Features of order m and the filter are functions of θ times one wave each; their product is a convolution of series in θ, of every
order by itself, which an FFT along θ computes. Under ``so3`` the curl of a filter that does not depend on φ is one product more,
from order m to -m. Source: Luo et al. 2024, arXiv:2401.10216 (sparse filters), after Passaro and Zitnick 2023, arXiv:2302.03655.

Shapes: e edges of a chunk, C channels, W own weights, K orders, R points of the circle, lm components of the frame.
"""

from collections.abc import Callable, Hashable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from eqmol.ops import flops
from eqmol.ops.contract import Convolution, RadialWeight
from eqmol.ops.edges import Nodes, sum_messages
from eqmol.ops.escn import ESCNConvolution, inward_rotations
from eqmol.ops.sampled import projection
from eqmol.ops.so2 import EdgeFrame, Side
from eqmol.ops.spec import Spec
from eqmol.ops.transforms import TwoSteps
from eqmol.so3.layout import dim
from eqmol.so3.quadrature import Factors
from eqmol.so3.torus import full_torus_rule, polar_series


class Series(TwoSteps):
    """Components of a frame to functions of θ on the full circle, [e, lm, C] -> [K, R, e, C], by the FFT."""

    cosine: Tensor
    twice: Tensor

    def __init__(self, factors: Factors) -> None:
        flops.register()
        series = polar_series(factors.polar)
        is_sine = np.abs(series.imag).max(0) > np.abs(series.real).max(0)
        super().__init__(Factors(np.where(is_sine, -series.imag, series.real), factors.order))
        self.rows = len(factors.polar)
        sines = np.array([is_sine[factors.order == order].any() for order in self.orders])
        self.add_table("cosine", np.where(sines, 0.0, 1.0)[:, None, None])
        # irfft reads every frequency but 0 twice
        self.add_table("twice", np.where(np.arange(len(series)) > 0, 2.0, 1.0)[:, None])

    def sample(self, x: Tensor) -> Tensor:
        samples = torch.fft.irfft(self.by_order(x) * self._phase(), self.rows, 1, "forward")
        return samples.unflatten(2, x.shape[::2])

    def adjoint(self, samples: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(samples.flatten(2), dim=1)[:, : self.polar.shape[1]] * self._phase().conj()
        return self.by_order_adjoint(spectrum.real * self.twice, samples.shape[2])

    def _phase(self) -> Tensor:
        """1 of cosine series, -i of sine series, [K, 1, 1]."""
        return torch.complex(self.cosine, self.cosine - 1)


class ZonalConvolution(Convolution):
    """A convolution of the gaunt family, an order at a time."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.degree, order = max(spec.degree_in, spec.degree_out), spec.highest_order
        self.frame = EdgeFrame(range(spec.degree_in + 1), range(spec.degree_out + 1), order, ())
        rule = full_torus_rule(spec.degree_in + spec.degree_filter, spec.degree_out)
        rows_in, rows_out = (_components(degree, order) for degree in (spec.degree_in, spec.degree_out))
        polar, m = projection(rule, spec).take(rows_out)
        # the mean of the square of a wave over φ
        share = np.where(m == 0, 1, 0.5) * len(rule.columns)
        self.projection = Series(Factors(polar * share, m))
        firsts, filters = [rule.factors(spec.degree_in)], [rule.factors(spec.degree_filter).polar]
        kinds = np.array([kind for kind, _ in spec.own_weights])
        if kinds.any():
            firsts.append(rule.gradient_factors(spec.degree_in)[1])
            filters.append(-rule.gradient_factors(spec.degree_filter)[0].polar)
        self.first = nn.ModuleList(Series(table.take(rows_in)) for table in firsts)
        for kind, table in enumerate(filters):
            # harmonics of the polar axis are √(2l + 1) at order 0 and zero at others
            own = [table[:, l * (l + 1)] * np.sqrt(2 * l + 1) * (k == kind) for k, l in spec.own_weights]
            self.add_table(f"filter{kind}", np.stack(own, axis=1))

    @property
    def geometry_key(self) -> Hashable:
        return ESCNConvolution, self.degree, self.frame.order

    def geometry(self, vectors: Tensor) -> Tensor:
        """Rotations into the frame of the edge, flat as in :mod:`eqmol.ops.so2`."""
        return inward_rotations(vectors, self.degree, self.frame.order)

    def forward(
        self, x: Tensor, geometry: Tensor, weight: RadialWeight, senders: Tensor, receivers: Tensor, num_receivers: int
    ) -> Tensor:
        sides = self.frame.degrees_in, self.frame.degrees_out
        rotations = [geometry[:, : self.frame.rotation_size(degrees)] for degrees in sides]
        nodes = Nodes(senders, receivers, num_receivers)
        return sum_messages(self, dim(self.spec.degree_out), x, rotations, weight, nodes)

    def bind(self, arguments: Sequence[Tensor]) -> Callable[[Sequence[int]], list[Tensor]]:
        """The message as a form in weights [e, W, C], features, their rotations, those of the result, and the cotangent."""
        weight, x, inward, outward, v = arguments
        sender = Side(self.frame.degrees_in, self.frame.rotation_shapes(self.frame.degrees_in), inward, x)
        receiver = Side(self.frame.degrees_out, self.frame.rotation_shapes(self.frame.degrees_out), outward, v)
        firsts = [part for part in self.first if isinstance(part, Series)]
        tables = [self.get_buffer(f"filter{kind}") for kind in range(len(firsts))]

        def derivatives(slots: Sequence[int]) -> list[Tensor]:
            wants_x, wants_v = not {1, 2}.isdisjoint(slots), not {3, 4}.isdisjoint(slots)
            filters = [(table @ weight).transpose(0, 1) for table in tables] if wants_x or wants_v else []
            if wants_v or 0 in slots:
                sender.enter()
                sent = [first.sample(torch.cat(sender.inside, 1)) for first in firsts]
            if wants_x or 0 in slots:
                receiver.enter()
                received = self.projection.sample(torch.cat(receiver.inside, 1))
            if wants_v:
                product = torch.stack([own * s for own, s in zip(filters, sent, strict=True)]).sum(0)
                receiver.put(self.projection.adjoint(product))
            if wants_x:
                parts = [f.adjoint(own * received) for own, f in zip(filters, firsts, strict=True)]
                sender.put(torch.stack(parts).sum(0))
            found = {1: sender.leave, 2: sender.by_rotation, 3: receiver.by_rotation, 4: receiver.leave}
            results = {slot: found[slot]() for slot in slots if slot}
            if 0 in slots:
                samples = [(s * received).sum(0).transpose(0, 1) for s in sent]
                slopes = [table.T @ s for table, s in zip(tables, samples, strict=True)]
                results[0] = torch.stack(slopes).sum(0)
            return [results[slot] for slot in slots]

        return derivatives


def _components(degree: int, order: int) -> np.ndarray:
    """Index of (l, m) for the rows of rotations of all degrees, as :mod:`eqmol.ops.so2` orders them."""
    rows = []
    for l in range(degree + 1):
        k = min(l, order)
        rows += [l * (l + 1) + m for m in (*range(k + 1), *range(-1, -k - 1, -1))]
    return np.array(rows)
