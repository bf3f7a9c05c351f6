"""Symmetric couplings: all equivariant maps from products of copies of one field to a degree l3 (MACE's U, arXiv:2206.07697,
eq. 10), as polynomials in the field's components.

The basis is deterministic: for every multiset of degrees the couplings through all intermediate degrees, in order, are
symmetrised and orthonormalised by Gram-Schmidt in float64. Intermediates of unnatural parity (1o ⊗ 2e -> 2o, 2o ⊗ 1o -> 2e)
are kept: without them natural outputs would be missed. The inner product is the second moment under independent standard normal
components, so every coupling has unit second moment per output component.

A monomial is the sorted tuple of the component indices of its factors.
"""

import math
from functools import lru_cache
from itertools import combinations_with_replacement, groupby, product

import numpy as np

from eqmol.errors import InputError
from eqmol.so3.coupling import wigner_3j
from eqmol.so3.layout import degree_slice, dim
from eqmol.so3.quadrature import harmonics_at, sphere_rule

Path = tuple[tuple[int, ...], int, int]  # degrees of the factors (sorted), l3, index
Monomials = tuple[tuple[int, ...], ...]

#: A candidate whose part outside the span of its predecessors is smaller than this is dependent.
_DEPENDENT = 1e-7


@lru_cache(maxsize=8)
def symmetric_paths(
    degree_in: int, degree_out: int, order: int, even_only: bool, max_monomials: int
) -> tuple[Path, ...]:
    """All couplings of orders 1 ... ``order``, sorted by l3, then order, then degrees of the factors.

    Raises:
        InputError: the highest order has more than ``max_monomials`` monomials.
    """
    size = math.comb(dim(degree_in) + order - 1, order)
    if size > max_monomials:
        raise InputError(
            f"a power of order {order} of features of degree {degree_in} has {size} monomials (limit {max_monomials}); "
            "lower model.correlation or model.filter_degree"
        )
    return tuple(
        (factors, l3, index)
        for l3 in range(degree_out + 1)
        for k in range(1, order + 1)
        for factors in combinations_with_replacement(range(degree_in + 1), k)
        if not even_only or (sum(factors) + l3) % 2 == 0
        for index in range(len(couplings(factors, l3)))
    )


@lru_cache(maxsize=4096)
def monomials(factors: tuple[int, ...]) -> Monomials:
    """Monomials with the given degrees of factors (sorted)."""
    blocks = [
        combinations_with_replacement(range(l**2, (l + 1) ** 2), len(list(copies))) for l, copies in groupby(factors)
    ]
    return tuple(sum(parts, ()) for parts in product(*blocks))


@lru_cache(maxsize=4096)
def couplings(factors: tuple[int, ...], l3: int) -> np.ndarray:
    """Basis of the symmetric couplings of the given degrees to l3: polynomials [couplings, 2 l3 + 1, monomials]."""
    if not _reachable(factors, l3):
        return np.zeros((0, 2 * l3 + 1, len(monomials(factors))))
    moment = _moment_matrix(factors)
    position = _monomial_index(factors)
    basis: list[np.ndarray] = []
    for tensor in _ordered_couplings(factors, l3):
        flat = tensor.reshape(-1, 2 * l3 + 1)
        candidate: np.ndarray = np.stack([np.bincount(position, column, minlength=len(moment)) for column in flat.T])
        norm = _norm(candidate, moment, l3)
        if norm < _DEPENDENT:
            continue
        candidate = candidate / norm
        for _ in range(2):
            for other in basis:
                candidate -= (candidate[l3] @ moment @ other[l3]) * other
        residual = _norm(candidate, moment, l3)
        if residual > _DEPENDENT:
            basis.append(candidate / residual)
    result = np.array(basis).reshape(len(basis), 2 * l3 + 1, len(moment))
    result[np.abs(result) < 1e-12] = 0.0
    result.flags.writeable = False
    return result


@lru_cache(maxsize=256)
def gaunt_coefficients(degree_in: int, order: int, l3: int) -> dict[Path, float]:
    """Expand the projection of f^order on degree l3 in symmetric couplings; f has degrees 0 ... ``degree_in``.

    Returns:
        Path -> coefficient in the basis of :func:`couplings`.
    """
    rule = sphere_rule(order * degree_in + l3, 0)
    value = harmonics_at(rule.points, max(degree_in, l3))
    target = rule.projection[:, 0] * value[:, degree_slice(l3)][:, l3]
    coefficients: dict[Path, float] = {}
    for factors in combinations_with_replacement(range(degree_in + 1), order):
        if (sum(factors) + l3) % 2 or not _reachable(factors, l3):
            continue
        terms = monomials(factors)
        samples = np.prod(value[:, np.array(terms)], axis=-1)
        polynomial = target @ samples * np.array([_multiplicity(term) for term in terms])
        overlap = couplings(factors, l3)[:, l3] @ _moment_matrix(factors) @ polynomial
        coefficients |= {(factors, l3, i): float(c) for i, c in enumerate(overlap)}
    return coefficients


def gaunt_second_moment(degree_in: int, order: int, l3: int) -> float:
    """½ ∫ E[f(r)^order f(r')^order] P_l3(r·r'): the field is Gaussian with covariance Σ (2l + 1) P_l(r·r')."""
    nodes, weights = np.polynomial.legendre.leggauss(order * degree_in // 2 + l3 // 2 + 2)
    legendre = np.polynomial.legendre.legval
    covariance = legendre(nodes, 2 * np.arange(degree_in + 1) + 1.0)
    variance = float(dim(degree_in))
    moment = np.zeros_like(nodes)
    for j in range(order % 2, order + 1, 2):
        pairs = (order - j) // 2
        ways = math.factorial(order) / (math.factorial(pairs) * 2**pairs)
        moment += ways**2 / math.factorial(j) * variance ** (order - j) * covariance**j
    return float(0.5 * weights @ (moment * legendre(nodes, np.eye(l3 + 1)[l3])))


def _multiplicity(term: tuple[int, ...]) -> int:
    """In how many orders the factors of a monomial can be written."""
    repeats = (math.factorial(len(list(copies))) for _, copies in groupby(term))
    return math.factorial(len(term)) // math.prod(repeats)


def _reachable(factors: tuple[int, ...], l3: int) -> bool:
    largest, total = max(factors), sum(factors)
    return l3 <= total and 2 * largest - total <= l3


def _ordered_couplings(factors: tuple[int, ...], l3: int) -> list[np.ndarray]:
    """Couplings (...((l1 l2) L12, l3) L123 ...) to ``l3`` through every chain of intermediates: [2l1+1, ..., 2 l3 + 1]."""
    chains: list[tuple[int, np.ndarray]] = [(factors[0], np.eye(2 * factors[0] + 1))]
    for position, l in enumerate(factors[1:], start=2):
        remaining = factors[position:]
        chains = [
            (middle, np.tensordot(tensor, wigner_3j(previous, l, middle), axes=(-1, 0)) * math.sqrt(2 * middle + 1))
            for previous, tensor in chains
            for middle in range(abs(previous - l), previous + l + 1)
            if _reachable((middle, *remaining), l3)
        ]
    return [tensor for last, tensor in chains if last == l3]


@lru_cache(maxsize=1024)
def _monomial_index(factors: tuple[int, ...]) -> np.ndarray:
    """Monomial of every index tuple (m1, ..., mν), flattened."""
    index = {term: i for i, term in enumerate(monomials(factors))}
    ranges = [range(l**2, (l + 1) ** 2) for l in factors]
    return np.array([index[tuple(sorted(term))] for term in product(*ranges)])


@lru_cache(maxsize=1024)
def _moment_matrix(factors: tuple[int, ...]) -> np.ndarray:
    """Second moments E[p q] of the monomials under independent standard normal components."""
    matrix = np.ones((1, 1))
    for l, copies in groupby(factors):
        power = _exponents(2 * l + 1, len(list(copies)))
        total = power[:, None, :] + power[None, :, :]
        matrix = np.kron(matrix, np.prod(_NORMAL_MOMENTS[total], axis=-1))
    return matrix


def _exponents(size: int, order: int) -> np.ndarray:
    terms = list(combinations_with_replacement(range(size), order))
    return np.stack([np.bincount(term, minlength=size) for term in terms])


_NORMAL_MOMENTS = np.array([0.0 if k % 2 else float(math.prod(range(1, k, 2))) for k in range(32)])


def _norm(candidate: np.ndarray, moment: np.ndarray, l3: int) -> float:
    # equal for every order by Schur's lemma: one suffices
    return math.sqrt(max(candidate[l3] @ moment @ candidate[l3], 0.0))
