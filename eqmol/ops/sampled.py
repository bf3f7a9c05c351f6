"""The gaunt family on sampled functions, for any rule of points on the sphere.

Features are sampled, multiplied point by point, and projected back. Under ``so3`` the curl pairing r·(∇f × ∇g) =
f_θ g_φ - f_φ g_θ of the same two functions is added; its gradients are divided by √(l(l+1)) per degree. Both are products of
samples, so their tables are stacked: the points of f g, then those of f_θ g_φ, then those of f_φ g_θ.

Derivatives evaluate the samples again, so that none is stored; the rows are taken a few at a time, so that samples stay in the
cache.

Shapes: N nodes, G stacked points, C channels, W own weights, J weighted components of the second factor, lm components.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from eqmol.ops import kernels
from eqmol.ops.contract import Product, TensorProduct
from eqmol.ops.multilinear import Form, partials
from eqmol.ops.spec import Spec
from eqmol.so3.layout import degree_slice, degrees
from eqmol.so3.quadrature import Rule


class Sampled(TensorProduct):
    """An operation on samples; a subclass names its rule."""

    has_kernels = True

    @staticmethod
    @abstractmethod
    def rule(band: int, degree_out: int) -> Rule:
        """The smallest rule that is exact for functions of degree ``band`` projected on degrees up to ``degree_out``."""


class PairTables(NamedTuple):
    """A pointwise product of two functions on samples; float64.

    Attributes:
        first: [G, lm_in] samples of the first factor.
        second: [G, J] samples of the second factor's weighted components.
        projection: [G, lm_out] of the products, with the constants of the outputs.
        component, own: [J] which component of the second factor, and its own weight.
        points: where among G the products of each kind (plain, curl) lie.
    """

    first: np.ndarray
    second: np.ndarray
    projection: np.ndarray
    component: np.ndarray
    own: np.ndarray
    points: list[slice]


def pair_tables(rule: Rule, spec: Spec) -> PairTables:
    """Tables of a convolution or product."""
    kinds = [[(i, own[1]) for i, own in enumerate(spec.own_weights) if own[0] == kind] for kind in (0, 1)]
    component, own = ([np.arange(0)] * 2 for _ in range(2))
    for kind, weights in enumerate(kinds):
        if weights:
            component[kind] = np.concatenate([np.r_[degree_slice(l)] for _, l in weights])
            own[kind] = np.concatenate([np.full(2 * l + 1, i) for i, l in weights])
    size = len(rule.azimuth)
    first, signs = [rule.sample(spec.degree_in)], [1]
    second = [np.pad(rule.sample(spec.degree_filter)[:, component[0]], ((0, 0), (0, len(component[1]))))]
    if kinds[1]:
        south, east = rule.gradient(spec.degree_in)
        filter_south, filter_east = (np.pad(t[:, component[1]], ((0, 0), (len(component[0]), 0)))
                                     for t in rule.gradient(spec.degree_filter))  # fmt: skip
        first, second, signs = [*first, south, east], [*second, filter_east, filter_south], [1, 1, -1]
    projection = rule.projection * spec.gaunt_scale[degrees(spec.degree_out)]
    return PairTables(
        np.concatenate(first),
        np.concatenate(second),
        np.concatenate([sign * projection for sign in signs]),
        np.concatenate(component),
        np.concatenate(own),
        [slice(0, size), slice(size, len(signs) * size)],
    )


def chunks(rows: int, row_size: int, like: Tensor) -> Iterator[slice]:
    """Slices of ``rows`` rows of ``row_size`` numbers that stay in the cache of a CPU or fill a GPU."""
    step = max(1, (2**17 if like.device.type == "cpu" else 2**25) // row_size)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


class SampledProduct(Sampled, Product):
    """Point-by-point product of two sampled features."""

    first: Tensor
    second: Tensor
    projection: Tensor
    component: Tensor
    own: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        tables = pair_tables(self.rule(spec.degree_in + spec.degree_filter, spec.degree_out), spec)
        self.add_table("first", tables.first)
        self.add_table("second", tables.second)
        self.add_table("projection", tables.projection)
        self.add_table("component", tables.component)
        self.add_table("own", tables.own)
        self.is_whole = np.array_equal(tables.component, np.arange(len(degrees(spec.degree_filter))))

    def forward(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        compiled = kernels.product(self, x, y, weight)
        if compiled is not None:
            return compiled
        y = y if self.is_whole else y.index_select(-2, self.component)
        own = weight.index_select(-2, self.own)
        (z,) = partials(self._form(), [3], [x, y, own if own.dim() == 3 else own.unsqueeze(0), None])
        return z

    def _form(self) -> Form:
        """What multiplies, in the arguments of :class:`WeightedProduct`."""
        return WeightedProduct((self.first, self.second, self.projection))


class WeightedProduct:
    """The form Σ_n Σ_g (A x)_g (B w y)_g (P v)_g, given tables A, B, P of samples [G, lm].

    Arguments: x [N, lm_in, C], y [N, J, C], w [N or 1, J, C], v [N, lm_out, C]; only v may be absent.
    """

    def __init__(self, tables: tuple[Tensor, Tensor, Tensor]) -> None:
        self.tables = tables

    def partials(self, slots: Sequence[int], arguments: Sequence[Tensor | None]) -> list[Tensor]:
        x, y, w, v = arguments
        assert x is not None
        assert y is not None
        assert w is not None
        first, second, projection = self.tables
        results = [x.new_zeros(*w.shape) if slot == 2 else x.new_empty(*self._shape(slot, x)) for slot in slots]
        for rows in chunks(len(x), len(first) * x.shape[2], x):
            factor, own = y[rows], w[rows] if len(w) > 1 else w
            a = first @ x[rows]
            b = second @ (factor * own)
            c = a if v is None else projection @ v[rows]
            slope = second.T @ (a * c) if {1, 2} & set(slots) else a
            for slot, result in zip(slots, results, strict=True):
                if slot == 0:
                    result[rows] = first.T @ (b * c)
                elif slot == 1:
                    torch.mul(slope, own, out=result[rows])
                elif slot == 2 and len(w) == 1:
                    result += (slope * factor).sum(0)
                elif slot == 2:
                    torch.mul(slope, factor, out=result[rows])
                else:
                    result[rows] = projection.T @ (a * b)
        return results

    def _shape(self, slot: int, x: Tensor) -> tuple[int, int, int]:
        table = self.tables[{0: 0, 1: 1, 3: 2}[slot]]
        return len(x), table.shape[1], x.shape[2]
