"""3j symbols and the factors of the Gaunt product and of the curl pairing."""

from itertools import product
from math import factorial as f
from math import sqrt

import numpy as np
import pytest
import torch
from e3nn import o3

from eqmol.so3.coupling import is_coupled, pairing, pairing_factor, wigner_3j
from eqmol.so3.quadrature import harmonics_at

TRIPLES = [t for t in product(range(5), repeat=3) if is_coupled(*t)]


def gaunt_factor(l1: int, l2: int, l3: int) -> float:
    """√((2 l1 + 1)(2 l2 + 1)(2 l3 + 1)) |(l1 l2 l3; 0 0 0)| for component-normalised harmonics and the mean over the sphere."""

    g, total = (l1 + l2 + l3) // 2, l1 + l2 + l3
    triangle = f(total - 2 * l1) * f(total - 2 * l2) * f(total - 2 * l3) / f(total + 1)
    return sqrt((2 * l1 + 1) * (2 * l2 + 1) * (2 * l3 + 1) * triangle) * f(g) / (f(g - l1) * f(g - l2) * f(g - l3))


@pytest.mark.parametrize("triple", TRIPLES, ids=str)
def test_equals_e3nn_up_to_sign(triple):
    ours, theirs = wigner_3j(*triple), o3.wigner_3j(*triple, dtype=torch.float64).numpy()
    sign = np.sign(np.sum(ours * theirs))
    np.testing.assert_allclose(ours, sign * theirs, atol=1e-12)


@pytest.mark.parametrize("triple", [(8, 8, 8), (8, 7, 4), (5, 6, 11), (12, 12, 12)], ids=str)
def test_orthogonal_at_high_degree(triple):
    tensor = wigner_3j(*triple)
    gram = np.einsum("abc,abd->cd", tensor, tensor) * (2 * triple[2] + 1)
    np.testing.assert_allclose(gram, np.eye(2 * triple[2] + 1), atol=1e-11)


def test_golden_signs():
    """Written into model files as a convention: these must never change."""
    cross = wigner_3j(1, 1, 1)
    assert cross[0, 1, 2] == pytest.approx(1 / np.sqrt(6), abs=1e-14)
    assert cross[1, 0, 2] == pytest.approx(-1 / np.sqrt(6), abs=1e-14)
    assert wigner_3j(1, 1, 0)[0, 0, 0] == pytest.approx(1 / np.sqrt(3), abs=1e-14)
    assert wigner_3j(1, 1, 2)[1, 1, 2] == pytest.approx(np.sqrt(2 / 15), abs=1e-14)
    assert wigner_3j(2, 1, 2)[2, 0, 3] == pytest.approx(-np.sqrt(1 / 10), abs=1e-14)
    assert wigner_3j(2, 3, 4)[0, 3, 6] == pytest.approx(np.sqrt(1 / 21), abs=1e-14)


@pytest.mark.parametrize("triple", [t for t in TRIPLES if sum(t) % 2 == 0], ids=str)
def test_gaunt_factors_in_closed_form(triple):
    assert pairing_factor(*triple) == pytest.approx(gaunt_factor(*triple), rel=1e-12)


@pytest.mark.parametrize("triple", [t for t in TRIPLES if sum(t) % 2 == 1], ids=str)
def test_curl_pairing_reaches_every_odd_path(triple):
    """The surface curl is proportional to the 3j symbol, with a factor far from zero."""
    theirs = o3.wigner_3j(*triple, dtype=torch.float64).numpy()
    projection = np.sum(pairing(*triple) * theirs)
    np.testing.assert_allclose(pairing(*triple), projection * theirs, atol=1e-12)
    assert abs(projection) > 1.1


def test_curl_of_linear_functions_is_the_cross_product():
    """Degree one: {a·r, b·r} = (a × b)·r."""
    a, b = np.array([0.3, -1.0, 2.0]), np.array([1.5, 0.2, -0.7])
    r = np.array([[0.6, 0.0, 0.8], [0.0, -1.0, 0.0]])
    harmonics = harmonics_at(r, 1)[:, 1:]
    # a·r has coefficients a / √3; the pairing divides each gradient by √2
    value = harmonics @ np.einsum("abc,a,b->c", pairing(1, 1, 1), a, b) / 3 * 2
    np.testing.assert_allclose(value, r @ np.cross(a, b), atol=1e-12)


def test_uncoupled_degrees_are_refused():
    with pytest.raises(ValueError, match="triangle"):
        wigner_3j(1, 1, 3)


@pytest.mark.parametrize("l1", range(6))
def test_factor_is_the_norm_of_the_pairing(l1):
    for l2 in range(5):
        for l3 in range(abs(l1 - l2), l1 + l2 + 1):
            np.testing.assert_allclose(pairing_factor(l1, l2, l3), np.linalg.norm(pairing(l1, l2, l3)), rtol=1e-13)
