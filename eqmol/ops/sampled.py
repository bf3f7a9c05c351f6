"""The gaunt family on sampled functions, for any rule of points on the sphere.

Features are sampled, multiplied point by point, and projected back. Under ``so3`` the curl pairing r·(∇f × ∇g) =
f_θ g_φ - f_φ g_θ of the same two functions is added; its gradients are divided by √(l(l+1)) per degree. Both are sums of products
of samples: f g, f_θ g_φ and f_φ g_θ.

Derivatives evaluate the samples again, so that none is stored; the rows are taken a few at a time, so that samples stay in the
cache.

Shapes: N nodes, G points, C channels, W own weights, J weighted components of the second factor, lm components.
"""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from functools import lru_cache, reduce
from typing import ClassVar, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from eqmol.ops import kernels
from eqmol.ops.contract import Product, TensorProduct
from eqmol.ops.kernels.library import Kernel
from eqmol.ops.kernels.two_steps import TwoStepProduct
from eqmol.ops.multilinear import Form, partials
from eqmol.ops.spec import Spec
from eqmol.ops.transforms import Dense, Separable, Transform, Transforms, chunks
from eqmol.so3.layout import degree_slice, degrees
from eqmol.so3.quadrature import Factors, Rule


class Sampled(TensorProduct):
    """An operation on samples; a subclass names its rule."""

    has_kernels = True
    #: From this degree on two steps are faster than dense tables; a constant, so that results do not depend on the machine.
    separable_degree: ClassVar[int] = 7

    @abstractmethod
    def rule(self, band: int, degree_out: int) -> Rule:
        """The smallest rule that is exact for functions of degree ``band`` projected on degrees up to ``degree_out``.

        Two steps need an even number of columns.
        """

    def columns(self, band: int, degree_out: int) -> int:
        """The fewest of a product rule."""
        columns = band + degree_out + 1
        return columns + columns % 2 if self.is_separable else columns

    @property
    def is_separable(self) -> bool:
        """Whether tables are applied in two steps, for which the points must be a product."""
        return self.highest >= self.separable_degree

    @property
    def highest(self) -> int:
        """The highest degree of what is multiplied."""
        return max(self.spec.degree_in, self.spec.degree_filter)

    def transform(self, factors: Factors, rule: Rule) -> Transform:
        """The transform of a table, of one kind for all tables of an operation."""
        if self.is_separable:
            return Separable(factors, len(rule.columns))
        return Dense(factors.dense(rule.columns))


class Pairing(NamedTuple):
    """Tables whose samples are multiplied.

    Attributes:
        first: of the components of the first factor.
        second: of the second factor's weighted components.
        kind: of the own weights that they belong to.
        component, own: [J] which component of the second factor, and its own weight.
    """

    first: Factors
    second: Factors
    kind: int
    component: np.ndarray
    own: np.ndarray


def pairings(rule: Rule, spec: Spec) -> list[Pairing]:
    """What a convolution or product multiplies: that of f g, then, if it has a curl, those of f_θ g_φ and f_φ g_θ."""
    (component, own), curl = (_weighted(spec, kind) for kind in (0, 1))
    second = rule.factors(spec.degree_filter).take(component)
    result = [Pairing(rule.factors(spec.degree_in), second, 0, component, own)]
    if len(curl[0]):
        south, east = rule.gradient_factors(spec.degree_in)
        filter_south, filter_east = (table.take(curl[0]) for table in rule.gradient_factors(spec.degree_filter))
        negative = Factors(-filter_south.polar, filter_south.order)
        result += [Pairing(south, filter_east, 1, *curl), Pairing(east, negative, 1, *curl)]
    return result


def _weighted(spec: Spec, kind: int) -> tuple[np.ndarray, np.ndarray]:
    """Components of the second factor that the own weights of a kind multiply, and these weights."""
    weights = [(i, l) for i, (k, l) in enumerate(spec.own_weights) if k == kind]
    components = [np.r_[degree_slice(l)] for _, l in weights]
    own = [np.full(2 * l + 1, i) for i, l in weights]
    none = np.arange(0)
    return np.concatenate([none, *components]), np.concatenate([none, *own])


def projection(rule: Rule, spec: Spec) -> Factors:
    """The way back, with the constants of the outputs."""
    polar, order = rule.projection_factors
    return Factors(polar * spec.gaunt_scale[degrees(spec.degree_out)], order)


class SampledProduct(Sampled, Product):
    """Point-by-point product of two sampled features.

    Args:
        spec: of the product.
        always_separable: two steps at any degree.
    """

    #: From this degree on compiled code takes two steps.
    compiled_degree: ClassVar[int] = 5
    component: Tensor
    own: Tensor
    projection: Transform
    first: Transforms
    second: Transforms

    def __init__(self, spec: Spec, always_separable: bool = False) -> None:
        super().__init__(spec)
        self.always_separable = always_separable
        rule = self.rule(spec.degree_in + spec.degree_filter, spec.degree_out)
        pairs = pairings(rule, spec)
        self.first = Transforms(self.transform(pair.first, rule) for pair in pairs)
        self.second = Transforms(self.transform(pair.second, rule) for pair in pairs)
        self.projection = self.transform(projection(rule, spec), rule)
        # the two pairings of the curl share their weighted components
        component = np.concatenate([pair.component for pair in pairs[:2]])
        self.add_table("component", component)
        self.add_table("own", np.concatenate([pair.own for pair in pairs[:2]]))
        sizes = np.cumsum([0, *(len(pair.component) for pair in pairs[:2])])
        weighted = [slice(sizes[pair.kind], sizes[pair.kind + 1]) for pair in pairs]
        self.form = WeightedProduct(list(zip(self.first, self.second, weighted, strict=True)), self.projection)
        self.in_two_steps = self.highest >= self.compiled_degree and isinstance(self.projection, Dense | Separable)
        self.is_whole = np.array_equal(component, np.arange(len(degrees(spec.degree_filter))))

    def forward(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        compiled = kernels.product(self, x, y, weight)
        if compiled is not None:
            return compiled
        y = y if self.is_whole else y.index_select(-2, self.component)
        own = weight.index_select(-2, self.own)
        form: Form = self._form()
        if (kernel := kernels.product_in_two_steps(self, x, y, own)) is not None:
            form = _by_kernel(type(self), self.spec, kernel, x.dtype)
        (z,) = partials(form, [3], [x, y, own if own.dim() == 3 else own.unsqueeze(0), None])
        return z

    @property
    def is_separable(self) -> bool:
        """As :attr:`Sampled.is_separable`."""
        return self.always_separable or super().is_separable

    def _form(self) -> Form:
        """What multiplies, in the arguments of :class:`WeightedProduct`."""
        return self.form


@lru_cache(maxsize=64)
def _by_kernel(kind: type[SampledProduct], spec: Spec, kernel: Kernel, dtype: torch.dtype) -> TwoStepProduct:
    """What multiplies in compiled code."""
    form = kind(spec, always_separable=True).form
    pairs = [(cast(Separable, a), cast(Separable, b), j.start) for a, b, j in form.pairs]
    return TwoStepProduct(kernel, pairs, cast(Separable, form.projection), dtype)


def write_slope(slope: Tensor, other: Tensor, result: Tensor, rows: slice, is_shared: bool) -> None:
    """Write the derivative by one factor of y w, whose derivative is ``slope``, or add it where all nodes share one row."""
    if is_shared:
        result += (slope * other).sum(0)
    else:
        torch.mul(slope, other, out=result[rows])


class WeightedProduct:
    """The form Σ_n Σ_g (A x)_g (B w y)_g (P v)_g, given transforms A, B, P, summed over pairs of A and B.

    Of every pair the components that B transforms are given, too.

    Arguments: x [N, lm_in, C], y [N, J, C], w [N or 1, J, C], v [N, lm_out, C]; only v may be absent.
    """

    def __init__(self, pairs: list[tuple[Transform, Transform, slice]], projection: Transform) -> None:
        self.pairs, self.projection = pairs, projection

    def partials(self, slots: Sequence[int], arguments: Sequence[Tensor | None]) -> list[Tensor]:
        x, y, w, v = arguments
        assert x is not None
        assert y is not None
        assert w is not None
        results = [torch.zeros_like(w) if slot == 2 else self._empty(slot, x, y) for slot in slots]
        wants_slope, wants_second = bool({1, 2} & set(slots)), bool({0, 3} & set(slots))
        wants_first = wants_slope or 3 in slots
        for rows in chunks(len(x), self.projection.points * x.shape[2], x, self.projection.limit):
            field, factor, own = x[rows], y[rows], w[rows] if len(w) > 1 else w
            c = None if v is None else self.projection.sample(v[rows])
            a = self._first(field) if wants_first else []
            b = self._second(factor * own) if wants_second else []
            slope = self._slope(a, c, factor) if c is not None and wants_slope else field
            for slot, result in zip(slots, results, strict=True):
                if slot == 0:
                    assert c is not None
                    parts = (
                        first.adjoint(first.multiply(s, c)) for (first, _, _), s in zip(self.pairs, b, strict=True)
                    )
                    result[rows] = _sum(parts)
                elif slot in (1, 2):
                    write_slope(slope, own if slot == 1 else factor, result, rows, slot == 2 and len(w) == 1)
                else:
                    result[rows] = self.projection.adjoint(_sum(map(self.projection.multiply, a, b)))
        return results

    def _first(self, x: Tensor) -> list[Tensor]:
        """Samples of the first factor for every pair."""
        return [first.sample(x) for first, _, _ in self.pairs]

    def _second(self, weighted: Tensor) -> list[Tensor]:
        """Samples of the second factor for every pair."""
        if len(self.pairs) == 1:
            return [self.pairs[0][1].sample(weighted)]
        return [second.sample(weighted[:, j]) for _, second, j in self.pairs]

    def _slope(self, a: list[Tensor], c: Tensor, like: Tensor) -> Tensor:
        """The derivative by the weighted components, [n, J, C]."""
        parts = [second.adjoint(second.multiply(s, c)) for (_, second, _), s in zip(self.pairs, a, strict=True)]
        if len(parts) == 1:
            return parts[0]
        slope = torch.zeros_like(like)
        for (_, _, j), part in zip(self.pairs, parts, strict=True):
            slope[:, j] += part
        return slope

    def _empty(self, slot: int, x: Tensor, y: Tensor) -> Tensor:
        if slot == 3:
            return x.new_empty(len(x), self.projection.components, x.shape[2])
        return torch.empty_like(y if slot == 1 else x)


def _sum(terms: Iterable[Tensor]) -> Tensor:
    return reduce(torch.add, terms)
