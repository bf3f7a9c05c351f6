"""Product of two features: outer products of two degrees, contracted with all their 3j symbols in one matrix product.

The form Σ w_p C_m1m2m3 x_m1 y_m2 g_m3 treats its three factors alike: its derivative by any of them is a product of the other two,
and its derivative by the weight of a path is the third factor times that product before it is weighted.

Nodes are treated a chunk at a time with components first, so that every step runs along whole rows of nodes and channels in
the cache, and nothing is kept. Steps are bound to their buffers once for all chunks of a length.

Shapes: N nodes, n nodes of a chunk, C channels, P paths, lm components; for a pair of degrees, D components of all its paths.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import isqrt
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from eqmol.ops import kernels
from eqmol.ops.chunks import OUTER_PRODUCTS
from eqmol.ops.contract import Product
from eqmol.ops.multilinear import partials
from eqmol.ops.spec import Spec
from eqmol.so3.coupling import wigner_3j
from eqmol.so3.layout import dim

#: Where there is less to an outer product, other steps fill the cache.
SMALLEST_OUTER = 16

#: Places of the form.
_FACTORS = _X, _Y, _OUT = range(3)
_WEIGHT = 3


class CGProduct(Product):
    """Dense contraction with the 3j symbols, degree by degree."""

    has_kernels = True
    scale: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        scale = spec.path_normalization / _norm(np.array(spec.pair_paths))
        self.add_table("scale", (spec.paths * scale).T if spec.has_own_weights else scale[:, None])
        self.pairs = [_pairs(spec, factor) for factor in _FACTORS]
        for factor, pairs in enumerate(self.pairs):
            couplings = [_coupling(spec, factor, pair) for pair in pairs if pair.is_coupled]
            self.add_table(f"couplings{factor}", np.concatenate([np.zeros(0), *couplings]))

    def forward(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        compiled = kernels.product(self, x, y, weight)
        if compiled is not None:
            return compiled
        weight = self.scale @ weight if self.spec.has_own_weights else self.scale * weight
        form = _Trilinear(self.spec, self.pairs, [self.get_buffer(f"couplings{factor}") for factor in _FACTORS])
        return partials(form, [_OUT], [x, y, None, weight if weight.dim() == 3 else weight.unsqueeze(0)])[0]


class _Pair(NamedTuple):
    """Degrees of two factors, and of each of their paths its index, degree of the third factor and rows of D."""

    left: int
    right: int
    paths: list[tuple[int, int, slice]]

    @property
    def size(self) -> int:
        """D."""
        return self.paths[-1][2].stop

    @property
    def outer(self) -> int:
        """Rows of the outer product."""
        return (2 * self.left + 1) * (2 * self.right + 1)

    @property
    def is_coupled(self) -> bool:
        """Whether there is anything to couple: some path has no scalar."""
        return min(self.left, self.right) > 0 and self.size > 1


def _pairs(spec: Spec, factor: int) -> list[_Pair]:
    """Pairs of degrees of the other two factors."""
    found: dict[tuple[int, int], _Pair] = {}
    for p, path in enumerate(spec.pair_paths):
        left, right = path[:factor] + path[factor + 1 :]
        pair = found.setdefault((left, right), _Pair(left, right, []))
        first = pair.size if pair.paths else 0
        pair.paths.append((p, path[factor], slice(first, first + 2 * path[factor] + 1)))
    return list(found.values())


def _coupling(spec: Spec, factor: int, pair: _Pair) -> np.ndarray:
    """Outer product -> all paths, [D · outer]."""
    paths = [spec.pair_paths[p] for p, _, _ in pair.paths]
    return np.concatenate([np.moveaxis(wigner_3j(*path), factor, 0).ravel() * _norm(np.array(path)) for path in paths])


def _split(flat: Tensor, pairs: Sequence[_Pair]) -> list[Tensor | None]:
    """[D, outer] of every pair that is coupled."""
    parts = iter(flat.split([pair.size * pair.outer for pair in pairs if pair.is_coupled]))
    return [next(parts).view(pair.size, pair.outer) if pair.is_coupled else None for pair in pairs]


def _norm(degrees: np.ndarray) -> np.ndarray:
    """A norm of 3j symbols such that those with a scalar are the identity; degrees [..., 3]."""
    return np.sqrt(2 * degrees.max(axis=-1) + 1)


class _Trilinear:
    """The form in x, y, g [N, lm, C] and weight [1 or N, P, C]; see :class:`eqmol.ops.multilinear.Form`."""

    def __init__(self, spec: Spec, pairs: Sequence[Sequence[_Pair]], couplings: Sequence[Tensor]) -> None:
        self.degrees = spec.degree_in, spec.degree_filter, spec.degree_out
        self.pairs = pairs
        self.couplings = [_split(flat, own) for flat, own in zip(couplings, pairs, strict=True)]
        self.outer = max(pair.outer for own in pairs for pair in own)
        self.size = max(pair.size for own in pairs for pair in own)

    def partials(self, slots: Sequence[int], arguments: Sequence[Tensor | None]) -> list[Tensor]:
        x, weight = arguments[_X], arguments[_WEIGHT]
        assert x is not None
        assert weight is not None
        nodes, _, channels = x.shape
        shapes = [(nodes, dim(degree), channels) for degree in self.degrees]
        result = [torch.zeros_like(weight) if slot == _WEIGHT else x.new_empty(shapes[slot]) for slot in slots]
        size = self._chunk_size(x)
        chunk = _Chunk(self, slots, [x.new_empty(rows, size, channels) for _, rows, _ in shapes], weight)
        for first in range(0, nodes, size):
            rows = slice(first, min(first + size, nodes))
            for slot, total, part in zip(slots, result, chunk.evaluate(arguments, rows), strict=True):
                if slot == _WEIGHT and len(weight) == 1:
                    total += part
                else:
                    total[rows] = part
        return result

    def _chunk_size(self, x: Tensor) -> int:
        """Nodes of all chunks but the last, which has little less."""
        number = -(-len(x) * x.shape[2] * max(self.outer, SMALLEST_OUTER) // OUTER_PRODUCTS.numbers(x))
        return max(1, -(-len(x) // max(number, 1)))


class _Chunk:
    """The form for some nodes, components (paths) first: a list of bound calls on buffers made once."""

    def __init__(self, form: _Trilinear, slots: Sequence[int], factors: Sequence[Tensor], weight: Tensor) -> None:
        self.slots = slots
        self.is_shared = len(weight) == 1
        nodes, channels = factors[0].shape[1:]
        own = weight.new_empty(weight.shape[1], 1 if self.is_shared else nodes, channels)
        if self.is_shared:
            own.copy_(weight.transpose(0, 1))
        self.arguments = [*factors, own]
        # degrees that no path reaches stay zero
        self.results = {slot: torch.zeros_like(self.arguments[slot]) for slot in slots}
        self.outer = own.new_empty(form.outer, nodes, channels)
        self.products = own.new_empty(form.size, nodes, channels)
        self.steps: list[Callable[[], Tensor]] = []
        wanted = [slot for slot in slots if slot != _WEIGHT] or [_OUT]
        for factor in wanted:
            self._bind(form, factor, factor in slots, _WEIGHT in slots and factor == wanted[0])

    def evaluate(self, arguments: Sequence[Tensor | None], rows: slice) -> list[Tensor]:
        """Derivatives [n, ...], that by a weight of all nodes [1, ...]; overwritten by the next call."""
        nodes = rows.stop - rows.start
        for slot, (buffer, values) in enumerate(zip(self.arguments, arguments, strict=True)):
            if values is None or (slot == _WEIGHT and self.is_shared):
                continue
            if nodes < buffer.shape[1]:  # the last chunk is filled up with zeros
                buffer.zero_()
            buffer[:, :nodes].copy_(values[rows].transpose(0, 1))
        for step in self.steps:
            step()
        return [self.results[slot][:, :nodes].transpose(0, 1) for slot in self.slots]

    def _bind(self, form: _Trilinear, factor: int, by_factor: bool, by_weight: bool) -> None:
        """Steps for the derivative by a factor, by the weight, or both."""
        left, right = (_by_degree(self.arguments[other]) for other in _FACTORS if other != factor)
        own, weight = _by_degree(self.arguments[factor]), self.arguments[_WEIGHT].unbind()
        total = _by_degree(self.results[factor]) if by_factor else ()
        weight_total = self.results[_WEIGHT].unbind() if by_weight else ()
        written: set[int] = set()
        for pair, coupling in zip(form.pairs[factor], form.couplings[factor], strict=True):
            products = self._multiply(left[pair.left], right[pair.right], coupling, pair.size)
            for path, degree, rows in pair.paths:
                product = products[rows]
                if degree in written:
                    self._do(total[degree].addcmul_, product, weight[path])
                elif by_factor:
                    self._do(torch.mul, product, weight[path], out=total[degree])
                    written.add(degree)
                if by_weight:
                    self._do(product.mul_, own[degree])
                    product = product.flatten(0, 1) if self.is_shared else product
                    self._do(torch.sum, product, 0, keepdim=self.is_shared, out=weight_total[path])

    def _multiply(self, left: Tensor, right: Tensor, coupling: Tensor | None, size: int) -> Tensor:
        """Steps that write the products of all paths of a pair of degrees, [D, n, C]."""
        products = self.products[:size]
        if coupling is not None:
            outer = self.outer[: len(left) * len(right)]
            self._do(torch.mul, left.unsqueeze(1), right, out=outer.view(len(left), *right.shape))
            self._do(torch.mm, coupling, outer.flatten(1), out=products.flatten(1))
        elif size > 1:
            self._do(torch.mul, left, right, out=products)
        else:
            self._do(torch.mul, left[:1], right[:1], out=products)
            for a, b in zip(left[1:], right[1:], strict=True):
                self._do(products[0].addcmul_, a, b)
        return products

    def _do(self, call: Callable[..., Tensor], *arguments: object, **options: object) -> None:
        self.steps.append(partial(call, *arguments, **options))


def _by_degree(x: Tensor) -> tuple[Tensor, ...]:
    """[lm, n, C] -> [2 l + 1, n, C] of every degree."""
    return x.split([2 * l + 1 for l in range(isqrt(len(x)))])
