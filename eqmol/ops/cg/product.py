"""Product of two features: outer products of two degrees, contracted with all their 3j symbols in one matrix product.

The form Σ w_p C_m1m2m3 x_m1 y_m2 g_m3 treats its three factors alike: its derivative by any of them is a product of the other two,
and its derivative by the weight of a path is the third factor times that product before it is weighted.

Nodes are treated a chunk at a time with components first, so that every step runs along whole rows of nodes and channels in
the cache, and nothing is kept. Steps are bound to their buffers once for all chunks of a length.

Shapes: N nodes, n nodes of a chunk, C channels, P paths, lm components; for a pair of degrees, D components of all its paths.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from eqmol.ops.contract import Product
from eqmol.ops.multilinear import partials
from eqmol.ops.spec import Spec
from eqmol.so3.coupling import wigner_3j
from eqmol.so3.layout import degree_slice, dim

#: Numbers of the largest outer product that a chunk has on the CPU: they stay in the cache. Other devices want large chunks.
CHUNK_ELEMENTS, CHUNK_ELEMENTS_ELSEWHERE = 1 << 17, 1 << 26
#: Where there is less to an outer product, other steps fill the cache.
SMALLEST_OUTER = 16

#: Places of the form.
_FACTORS = _X, _Y, _OUT = range(3)
_WEIGHT = 3


class CGProduct(Product):
    """Dense contraction with the 3j symbols, degree by degree."""

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


def _norm(degrees: np.ndarray) -> np.ndarray:
    """A norm of 3j symbols such that those with a scalar are the identity; degrees [..., 3]."""
    return np.sqrt(2 * degrees.max(axis=-1) + 1)


class _Trilinear:
    """The form in x, y, g [N, lm, C] and weight [1 or N, P, C]; see :class:`eqmol.ops.multilinear.Form`."""

    def __init__(self, spec: Spec, pairs: Sequence[Sequence[_Pair]], couplings: Sequence[Tensor]) -> None:
        self.degrees = spec.degree_in, spec.degree_filter, spec.degree_out
        self.pairs, self.couplings = pairs, couplings
        self.outer = max((2 * pair.left + 1) * (2 * pair.right + 1) for own in pairs for pair in own)
        self.size = max(pair.size for own in pairs for pair in own)

    def partials(self, slots: Sequence[int], arguments: Sequence[Tensor | None]) -> list[Tensor]:
        x, weight = arguments[_X], arguments[_WEIGHT]
        assert x is not None
        assert weight is not None
        rows_of = [dim(degree) for degree in self.degrees]
        result = [
            torch.zeros_like(weight) if slot == _WEIGHT else x.new_empty(len(x), rows_of[slot], x.shape[2])
            for slot in slots
        ]
        bound: dict[int, _Chunk] = {}
        for rows in self._chunks(x):
            nodes = rows.stop - rows.start
            if nodes not in bound:
                bound[nodes] = _Chunk(self, slots, [x.new_zeros(r, nodes, x.shape[2]) for r in rows_of], weight)
            for slot, total, part in zip(slots, result, bound[nodes].evaluate(arguments, rows), strict=True):
                if slot == _WEIGHT and len(weight) == 1:
                    total += part
                else:
                    total[rows] = part
        return result

    def _chunks(self, x: Tensor) -> Iterator[slice]:
        """Slices of nodes of equal length, but for the last."""
        limit = CHUNK_ELEMENTS if x.device.type == "cpu" else CHUNK_ELEMENTS_ELSEWHERE
        number = -(-len(x) * x.shape[2] * max(self.outer, SMALLEST_OUTER) // limit)
        size = max(1, -(-len(x) // max(number, 1)))
        return (slice(first, min(first + size, len(x))) for first in range(0, len(x), size))


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
        self.results = [torch.zeros_like(self.arguments[slot]) for slot in range(4)]
        self.outer = own.new_empty(form.outer, nodes, channels)
        self.products = own.new_empty(form.size, nodes, channels)
        self.steps: list[Callable[[], Tensor]] = []
        wanted = [slot for slot in slots if slot != _WEIGHT] or [_OUT]
        for factor in wanted:
            self._bind(form, factor, factor in slots, _WEIGHT in slots and factor == wanted[0])

    def evaluate(self, arguments: Sequence[Tensor | None], rows: slice) -> list[Tensor]:
        """Derivatives [n, ...], that by a weight of all nodes [1, ...]; overwritten by the next call."""
        for slot, (buffer, values) in enumerate(zip(self.arguments, arguments, strict=True)):
            if values is not None and not (slot == _WEIGHT and self.is_shared):
                buffer.copy_(values[rows].transpose(0, 1))
        for step in self.steps:
            step()
        return [self.results[slot].transpose(0, 1) for slot in self.slots]

    def _bind(self, form: _Trilinear, factor: int, by_factor: bool, by_weight: bool) -> None:
        """Steps for the derivative by a factor, by the weight, or both."""
        own, weight, total = self.arguments[factor], self.arguments[_WEIGHT], self.results[factor]
        left, right = (self.arguments[other] for other in _FACTORS if other != factor)
        written: set[int] = set()
        first = 0
        for pair in form.pairs[factor]:
            size = (2 * pair.left + 1) * (2 * pair.right + 1) * pair.size if pair.is_coupled else 0
            coupling = form.couplings[factor][first : first + size]
            first += size
            self._multiply(pair, coupling, left[degree_slice(pair.left)], right[degree_slice(pair.right)])
            for path, degree, rows in pair.paths:
                product, degree_rows = self.products[rows], degree_slice(degree)
                if by_factor and degree in written:
                    self._do(total[degree_rows].addcmul_, product, weight[path])
                elif by_factor:
                    self._do(torch.mul, product, weight[path], out=total[degree_rows])
                    written.add(degree)
                if by_weight:
                    self._do(product.mul_, own[degree_rows])
                    product = product.flatten(0, 1) if self.is_shared else product
                    self._do(torch.sum, product, 0, keepdim=self.is_shared, out=self.results[_WEIGHT][path])

    def _multiply(self, pair: _Pair, coupling: Tensor, left: Tensor, right: Tensor) -> None:
        """Steps that write the products of all paths of a pair [D, n, C]."""
        product = self.products[: pair.size]
        if pair.is_coupled:
            outer = self.outer[: len(left) * len(right)]
            self._do(torch.mul, left.unsqueeze(1), right, out=outer.view(len(left), *right.shape))
            self._do(torch.mm, coupling.view(pair.size, -1), outer.flatten(1), out=product.flatten(1))
        elif pair.size > 1:
            self._do(torch.mul, left, right, out=product)
        else:
            (a, b), *others = zip(left, right, strict=True)
            self._do(torch.mul, a, b, out=product[0])
            for a, b in others:
                self._do(product[0].addcmul_, a, b)

    def _do(self, call: Callable[..., Tensor], *arguments: object, **options: object) -> None:
        self.steps.append(partial(call, *arguments, **options))
