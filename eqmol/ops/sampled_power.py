"""Powers of one field of the gaunt family on samples.

Shapes: N nodes, G points, C channels, W own weights, Z groups, O orders, lm components.
"""

from collections.abc import Sequence
from functools import reduce
from math import perm

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from eqmol.ops import kernels
from eqmol.ops.contract import Power
from eqmol.ops.multilinear import Polynomial, partials
from eqmol.ops.sampled import Sampled
from eqmol.ops.spec import Spec
from eqmol.ops.transforms import Transform, chunks
from eqmol.so3.layout import degrees


class SampledPower(Sampled, Power):
    """Powers of one sampled field."""

    separable_degree = 8
    to_samples: Transform
    projection: Transform
    spread: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        rule = self.rule(spec.order * spec.degree_in, spec.degree_out)
        self.to_samples = self.transform(rule.factors(spec.degree_in), rule)
        self.projection = self.transform(rule.projection_factors, rule)
        reach = degrees(spec.degree_out)
        spread = np.zeros((spec.order, len(reach), spec.num_weights))
        for i, (order, l) in enumerate(spec.own_weights):
            spread[order - 1, reach == l, i] = spec.gaunt_scale[i]
        self.add_table("spread", spread.reshape(-1, spec.num_weights))

    def forward(self, x: Tensor, weight: Tensor, group: Tensor) -> Tensor:
        compiled = kernels.power(self, x, weight, group)
        if compiled is not None:
            return compiled
        per_component = (self.spread @ weight).unflatten(1, (self.spec.order, -1))
        (z,) = partials(PowerSum(self, group), [2], [x, per_component, None])
        return z


class PowerSum(Polynomial):
    """The form Σ_n Σ_order w_order · v · projection of a^order, a the samples of x, or its derivatives along tangents of x.

    Arguments: x [N, lm_in, C], w [Z, O, lm_out, C], v [N, lm_out, C], and tangents like x; only v may be absent.
    """

    def __init__(self, op: SampledPower, group: Tensor) -> None:
        self.table, self.projection, self.group = op.to_samples, op.projection, group
        self.order, self.size_in, self.size_out = op.spec.order, self.table.components, self.projection.components

    def partials(self, slots: Sequence[int], arguments: Sequence[Tensor | None]) -> list[Tensor]:
        x, weight, v, *tangents = arguments
        assert x is not None
        assert weight is not None
        results = {slot: torch.empty_like(x) for slot in slots if slot not in (1, 2)}
        if 1 in slots:
            results[1] = torch.zeros_like(weight)
        if 2 in slots:
            results[2] = x.new_empty(len(x), weight.shape[2], x.shape[2])
        for rows in chunks(len(x), self.table.points * x.shape[2], x, self.table.limit):
            group = self.group[rows]
            own = weight.index_select(0, group)
            fields = [f[rows] for f in (x, *tangents) if f is not None]
            samples = [self.table.sample(f) for f in fields]
            if 1 in slots or 2 in slots:
                projected = self._project(fields, samples)
            if 2 in slots:
                results[2][rows] = (own * projected).sum(1)
            if v is None:
                continue
            cotangent = v[rows].unsqueeze(1)
            if 1 in slots:
                results[1].index_add_(0, group, projected * cotangent)
            if any(slot not in (1, 2) for slot in slots):
                linear, *higher = (own * cotangent).unbind(1)
                higher = [self.projection.sample(c) for c in higher]
            for slot in slots:
                if slot not in (1, 2):
                    others = [t for i, t in enumerate(samples[1:], 3) if i != slot]
                    results[slot][rows] = self._slope(samples[0], others, linear, higher)
        return [results[slot] for slot in slots]

    def _project(self, fields: list[Tensor], samples: list[Tensor]) -> Tensor:
        """Every order, differentiated along all tangents, projected: [n, O, lm_out, C]."""
        a, *tangents = samples
        k, (n, _, channels) = len(tangents), fields[0].shape
        zero = a.new_zeros(n, self.size_out, channels)
        results = [_fit(fields[-1], self.size_out) if k < 2 else zero]  # the first order needs no samples
        power = reduce(self.table.multiply, tangents) if k else a
        for order in range(2, self.order + 1):
            if order > max(k, 1):
                power = self.table.multiply(power, a)
            results.append(perm(order, k) * self.projection.adjoint(power) if order >= k else zero)
        return torch.stack(results, 1)

    def _slope(self, a: Tensor, tangents: list[Tensor], linear: Tensor, cotangents: list[Tensor]) -> Tensor:
        """Derivative for one field given the tangents of the others, [n, lm_in, C].

        ``linear`` is the cotangent of the first order's result, ``cotangents`` are those of the higher ones, sampled.
        """
        k = len(tangents) + 1
        # Horner's scheme from the highest order down
        total = torch.zeros_like(a)
        for order in range(self.order, max(k, 2) - 1, -1):
            total = self.table.multiply(total, a).add_(cotangents[order - 2], alpha=perm(order, k))
        if k > 1:
            return self.table.adjoint(reduce(self.table.multiply, tangents, total))
        return self.table.adjoint(self.table.multiply(total, a)) + _fit(linear, self.size_in)


def _fit(x: Tensor, size: int) -> Tensor:
    """The first ``size`` components of x, zero where it has none."""
    return x[:, :size] if x.shape[1] >= size else pad(x, (0, 0, 0, size - x.shape[1]))
