"""Tensor products as sparse polynomials: their nonzero terms, from the couplings of :mod:`eqmol.so3`."""

from functools import lru_cache
from math import comb
from typing import NamedTuple

import numpy as np

from eqmol.ops.spec import Spec
from eqmol.so3.coupling import wigner_3j
from eqmol.so3.layout import degree_slice, dim
from eqmol.so3.symmetric import couplings, monomials

#: What is larger has no kernel: known from the spec alone, before any term is made.
MAX_MONOMIALS, MAX_ELEMENTS = 1000, 8000
#: Relative to the largest; what is smaller is rounding.
ZERO = 1e-13

Monomial = tuple[int, ...]


class PowerTerms(NamedTuple):
    """A power as one polynomial per output component, group and channel.

    Attributes:
        terms: (output component, monomial) of every coefficient, sorted.
        coefficients: own weights -> coefficients, float64 [W, K].
    """

    terms: tuple[tuple[int, Monomial], ...]
    coefficients: np.ndarray


class PairTerms(NamedTuple):
    """A product or convolution: Σ value · w[weight] · x[first] · y[second] into an output component.

    Attributes:
        entries: (weight, first, second, output component), sorted; components of one block after another.
        values: float64, as many.
    """

    entries: tuple[tuple[int, int, int, int], ...]
    values: tuple[float, ...]


class EdgeTerms(NamedTuple):
    """A convolution as one small matrix per edge, linear in the edge's harmonics.

    Attributes:
        entries: (weight, first, output component) of every element, sorted.
        harmonics: of every element, (component, value) of the sum that it is.
    """

    entries: tuple[tuple[int, int, int], ...]
    harmonics: tuple[tuple[tuple[int, float], ...], ...]


@lru_cache(maxsize=256)
def is_small(spec: Spec) -> bool:
    """Whether a spec is small enough to be written out term by term, but not empty."""
    if spec.operation == "power":
        return comb(dim(spec.degree_in) + spec.order, spec.order) <= MAX_MONOMIALS
    sizes = [(2 * l1 + 1) * (2 * l2 + 1) * (2 * l3 + 1) for l1, l2, l3 in spec.pair_paths]
    return 0 < sum(sizes) <= MAX_ELEMENTS


@lru_cache(maxsize=64)
def power_terms(spec: Spec) -> PowerTerms:
    """The terms of a power."""
    found: dict[tuple[int, Monomial], dict[int, float]] = {}
    for path, (factors, l3, index) in enumerate(spec.power_paths):
        table = couplings(factors, l3)[index] * spec.path_normalization[path]
        for component, monomial in np.argwhere(table):
            term = l3**2 + int(component), tuple(sorted(monomials(factors)[monomial]))
            found.setdefault(term, {})[path] = float(table[component, monomial])
    terms = sorted(found)
    of_paths = np.zeros((spec.num_paths, len(terms)))
    for column, term in enumerate(terms):
        for path, value in found[term].items():
            of_paths[path, column] = value
    matrix = spec.paths @ of_paths
    sizes = np.abs(matrix).max(axis=0, initial=0.0)
    kept = np.flatnonzero(sizes > ZERO * sizes.max(initial=0.0))
    return PowerTerms(tuple(terms[column] for column in kept), matrix[:, kept])


@lru_cache(maxsize=64)
def pair_terms(spec: Spec) -> PairTerms:
    """The terms of a product or convolution."""
    found: dict[tuple[int, int, int, int], float] = {}
    weights = spec.paths * spec.path_normalization
    for path, (l1, l2, l3) in enumerate(spec.pair_paths):
        table = wigner_3j(l1, l2, l3)
        starts = np.array([degree_slice(l).start for l in (l1, l2, l3)])
        starts[2] += spec.path_blocks[path] * dim(spec.degree_out)
        for own in np.flatnonzero(weights[:, path]):
            for place in np.argwhere(table):
                first, second, out = (int(i) for i in starts + place)
                key = int(own), first, second, out
                found[key] = found.get(key, 0.0) + float(weights[own, path] * table[tuple(place)])
    largest = max((abs(value) for value in found.values()), default=0.0)
    kept = sorted(key for key, value in found.items() if abs(value) > ZERO * largest)
    return PairTerms(tuple(kept), tuple(found[key] for key in kept))


@lru_cache(maxsize=64)
def edge_terms(spec: Spec) -> EdgeTerms:
    """The terms of a convolution."""
    found: dict[tuple[int, int, int], list[tuple[int, float]]] = {}
    for (weight, first, second, out), value in zip(*pair_terms(spec), strict=True):
        found.setdefault((weight, first, out), []).append((second, value))
    entries = sorted(found)
    return EdgeTerms(tuple(entries), tuple(tuple(found[entry]) for entry in entries))
