"""Symmetric couplings: complete, orthonormal, equivariant; the Gaunt power lies in their span."""

from itertools import combinations_with_replacement, groupby, permutations
from itertools import product as tuples

import numpy as np
import pytest

from eqmol.errors import InputError
from eqmol.ops import Spec
from eqmol.so3.coupling import pairing
from eqmol.so3.layout import degree_slice, dim
from eqmol.so3.symmetric import couplings, gaunt_coefficients, monomials, symmetric_paths

FACTORS = [f for order in (1, 2, 3) for f in combinations_with_replacement(range(4), order)] + [
    (1, 1, 2, 2),
    (2, 2, 2, 2),
    (1, 1, 1, 1, 2),
    (5, 6, 6),
]


def count_symmetric(factors: tuple[int, ...], l3: int) -> int:
    """Number of symmetric couplings, from the characters of the rotation group."""
    angles = np.pi * (np.arange(2000) + 0.5) / 2000
    density = (1 - np.cos(angles)) * (1 / 2000)

    def character(l: int, multiple: int = 1) -> np.ndarray:
        return 1 + 2 * sum((np.cos(multiple * m * angles) for m in range(1, l + 1)), np.zeros_like(angles))

    total = np.ones_like(angles)
    for l, copies in groupby(factors):
        symmetric = [np.ones_like(angles)]
        for k in range(1, len(list(copies)) + 1):
            newton = sum((character(l, i) * symmetric[k - i] for i in range(1, k + 1)), np.zeros_like(angles))
            symmetric.append(newton / k)
        total = total * symmetric[-1]
    return round(float(density @ (total * character(l3))))


def gaunt_power_dense(degree_in: int, order: int, l3: int) -> np.ndarray:
    """Integral of Y_i1 ... Y_iν Y_l3 over every index tuple, by chained Gaunt tensors: [lm_in] * order + [2 l3 + 1]."""
    band = order * degree_in
    gaunt = np.zeros((dim(band), dim(degree_in), dim(band)))
    for l1, l2, l in tuples(range(band + 1), range(degree_in + 1), range(band + 1)):
        if abs(l1 - l2) <= l <= l1 + l2 and (l1 + l2 + l) % 2 == 0:
            gaunt[degree_slice(l1), degree_slice(l2), degree_slice(l)] = pairing(l1, l2, l)
    result = np.eye(dim(degree_in), dim(band))
    for _ in range(order - 1):
        result = np.tensordot(result, gaunt, axes=(-1, 0))
    return result[..., degree_slice(l3)]


@pytest.mark.parametrize("factors", FACTORS, ids=str)
def test_complete(factors):
    """As many couplings as the characters of the rotation group demand."""
    for l3 in range(4):
        assert len(couplings(factors, l3)) == count_symmetric(factors, l3)


@pytest.mark.parametrize(("factors", "l3"), [((1, 1), 2), ((1, 2, 3), 1), ((2, 2, 2), 2), ((1, 1, 2, 2), 0)], ids=str)
def test_orthonormal_under_the_normal_distribution(factors, l3):
    basis, terms = couplings(factors, l3), np.array(monomials(factors))
    x = np.random.default_rng(0).normal(size=(200_000, (max(factors) + 1) ** 2))
    values = np.einsum("pmt,bt->bpm", basis, x[:, terms].prod(-1))
    gram = np.einsum("bpm,bqm->pq", values, values) / len(x) / (2 * l3 + 1)
    np.testing.assert_allclose(gram, np.eye(len(basis)), atol=0.1)  # sampling error


def test_intermediates_of_unnatural_parity_are_kept():
    """(1, 2, 2) -> 1 needs 1 ⊗ 2 -> 2, an intermediate that o3 features do not carry."""
    assert len(couplings((1, 2, 2), 1)) == count_symmetric((1, 2, 2), 1) == 2


@pytest.mark.parametrize(("degree_in", "order", "l3"), [(1, 2, 0), (2, 2, 2), (1, 3, 1), (2, 3, 0), (1, 4, 2)])
def test_gaunt_power_lies_in_the_span(degree_in, order, l3):
    dense = gaunt_power_dense(degree_in, order, l3)
    rebuilt = np.zeros_like(dense)
    for (factors, _, index), value in gaunt_coefficients(degree_in, order, l3).items():
        for column, term in enumerate(monomials(factors)):
            orderings = set(permutations(term))
            for ordering in orderings:
                rebuilt[ordering] += value * couplings(factors, l3)[index][:, column] / len(orderings)
    np.testing.assert_allclose(rebuilt, dense, atol=1e-11)


def test_golden_coupling():
    """A basis that moved would give another meaning to the weights of every model file."""
    expected = np.zeros(30)
    expected[[6, 10, 23]] = np.sqrt(1 / 5)
    expected[[2, 27]] = -np.sqrt(1 / 60)
    expected[[4, 29]] = -np.sqrt(1 / 20), np.sqrt(1 / 20)
    expected[17] = np.sqrt(1 / 15)
    np.testing.assert_allclose(couplings((1, 1, 2), 0)[0, 0], expected, atol=1e-12)


def test_power_of_the_gaunt_family_is_the_same_under_both_parities():
    even, all_ = (Spec("power", "gaunt", parity, 2, 0, 2, 3) for parity in ("o3", "so3"))
    assert even.num_weights == all_.num_weights == 9
    np.testing.assert_array_equal(even.paths, all_.paths)


def test_too_large_powers_are_refused():
    with pytest.raises(InputError, match="monomials"):
        symmetric_paths(8, 1, 4, True, 10_000)
