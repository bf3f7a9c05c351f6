"""The programs of tensor products: their derivatives as the forms of :mod:`eqmol.ops.multilinear` need them.

Tensors: ``x`` first factor, ``y`` second factor, ``v`` cotangent of the result, ``c`` coefficients of a power's polynomial, ``w``
weights of a product or convolution, ``m`` the elements of an edge's matrix. A name with a number is a tangent of the tensor.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby

from eqmol.ops.kernels.expressions import SLOPE, Expressions, Program, Variable, derive
from eqmol.ops.kernels.sparse import ZERO, Monomial, edge_terms, pair_terms, power_terms
from eqmol.ops.spec import Spec
from eqmol.so3.directions import rising
from eqmol.so3.layout import dim


@lru_cache(maxsize=256)
def power_program(spec: Spec, wanted: frozenset[str], tangents: int) -> Program:
    """Derivatives of Σ v · polynomial(x), differentiated along ``x0``, ``x1`` ..., with respect to the tensors ``wanted``."""
    terms = power_terms(spec).terms
    e = Expressions()

    def pieces() -> Iterator[int | None]:
        numbered = [(out, monomial, row) for row, (out, monomial) in enumerate(terms)]
        for (out, first), group in groupby(numbered, key=lambda term: (term[0], term[1][0])):
            inner = _horner(e, {monomial[1:]: row for _, monomial, row in group})
            yield e.multiply(e.variable("v", out), e.multiply(e.variable("x", first), inner))

    names = [f"x{i}" for i in range(tangents)]
    lm_in = dim(spec.degree_in)
    sizes = {"x": lm_in, "c": len(terms), "v": dim(spec.degree_out), **dict.fromkeys(names, lm_in)}
    return derive(e, pieces(), wanted, sizes, [{"x": name} for name in names])


def _horner(e: Expressions, rows: Mapping[Monomial, int]) -> int | None:
    """A polynomial in ``x``, given the coefficient of every monomial, nested by the first factor."""
    total = e.variable("c", rows[()]) if () in rows else None
    for first in sorted({monomial[0] for monomial in rows if monomial}):
        inner = _horner(e, {m[1:]: row for m, row in rows.items() if m and m[0] == first})
        total = e.add(total, e.multiply(e.variable("x", first), inner))
    return total


@lru_cache(maxsize=256)
def product_program(spec: Spec, wanted: frozenset[str]) -> Program:
    """Derivatives of Σ value · w · x · y · v with respect to the tensors ``wanted``."""
    e = Expressions()
    degree = [l for l in range(max(spec.degree_in, spec.degree_filter) + 1) for _ in range(2 * l + 1)]
    terms = sorted(zip(*pair_terms(spec), strict=True), key=lambda t: (degree[t[0][1]], degree[t[0][2]], *t[0]))

    def pieces() -> Iterator[int | None]:
        for _, pair in groupby(terms, key=lambda term: (degree[term[0][1]], degree[term[0][2]])):
            sums: dict[tuple[int, int], int | None] = {}
            for (weight, first, second, out), value in pair:
                outer = e.multiply(e.variable("x", first), e.variable("y", second))
                sums[weight, out] = e.add(sums.get((weight, out)), e.scale(value, outer))
            total = None
            for (weight, out), own in sums.items():
                weighted = e.multiply(e.variable("w", weight), e.variable("v", out))
                total = e.add(total, e.multiply(weighted, own))
            yield total

    sizes = {"x": dim(spec.degree_in), "y": dim(spec.degree_filter), "v": dim(spec.degree_out), "w": spec.num_weights}
    return derive(e, pieces(), wanted, sizes)


@lru_cache(maxsize=256)
def edge_program(spec: Spec, wanted: frozenset[str], moving: frozenset[str] = frozenset()) -> Program:
    """Derivatives of Σ w · x · m · v with respect to the tensors ``wanted``; those by the harmonics in place of those by ``m``.

    Args:
        spec: of a convolution.
        wanted: among w, x, m, v and tangents.
        moving: tensors among w, x, m that have tangents (w0, x0, m0): the form is differentiated along them first.
    """
    e, terms = Expressions(), edge_terms(spec)

    def pieces() -> Iterator[int | None]:
        numbered = [(*entry, row) for row, entry in enumerate(terms.entries)]
        for (weight, first), group in groupby(numbered, key=lambda entry: entry[:2]):
            total = None
            for *_, out, row in group:
                total = e.add(total, e.multiply(e.variable("v", out), e.variable("m", row)))
            yield e.multiply(e.multiply(e.variable("w", weight), e.variable("x", first)), total)

    plain = {"w": spec.num_weights, "x": dim(spec.degree_in), "m": len(terms.entries)}
    rows = spec.num_blocks * dim(spec.degree_out)
    sizes = {**plain, "v": rows, **{name + "0": plain[name] for name in plain if name in moving}}
    tangents: Sequence[Mapping[str, str]] = [{name: name + "0" for name in sorted(moving)}] if moving else []
    program = derive(e, pieces(), wanted, sizes, tangents)
    return _by_harmonics(program, terms.harmonics) if "m" in wanted else program


def _by_harmonics(program: Program, harmonics: Sequence[Sequence[tuple[int, float]]]) -> Program:
    """Derivatives by the elements of an edge's matrix, gathered to those by its harmonics ``y``."""
    e, slope = program.expressions, SLOPE + "m"
    results = {variable: n for variable, n in program.results.items() if variable.tensor != slope}
    # in the order in which they are made, so that few are waiting
    for variable, n in sorted(program.results.items(), key=lambda item: item[1]):
        if variable.tensor == slope:
            for component, value in harmonics[variable.row]:
                own = Variable(SLOPE + "y", component)
                total = e.add(results.get(own), e.scale(value, n))
                assert total is not None
                results[own] = total
    sizes = {name: size for name, size in program.sizes.items() if name != slope}
    components = 1 + max(component for element in harmonics for component, _ in element)
    return Program(e, results, {**sizes, SLOPE + "y": components})


@lru_cache(maxsize=64)
def harmonics_program(degree: int, wanted: frozenset[str]) -> Program:
    """Derivatives of Σ g · harmonics of a direction u, with respect to the tensors ``wanted``, g for the harmonics themselves.

    They are polynomials in the components of u, degree after degree as in :mod:`eqmol.so3.directions`; the first, which is 1,
    is left out.
    """
    e = Expressions()
    direction: list[int | None] = [e.variable("u", i) for i in range(3)]
    last = [e.scale(math.sqrt(3), u) for u in direction]
    rows = [None, *last] if degree else [None]
    for l in range(2, degree + 1):
        pairs = [e.multiply(u, y) for u in direction for y in last]
        last = []
        for column in rising(l).T:
            total = None
            for pair, value in zip(pairs, column.tolist(), strict=True):
                total = e.add(total, e.scale(value if abs(value) > ZERO else 0.0, pair))
            last.append(total)
        rows += last
    form = None
    for row, harmonic in enumerate(rows):
        form = e.add(form, e.multiply(e.variable("g", row), harmonic))
    return derive(e, [form], wanted, {"u": 3, "g": len(rows)})
