"""What a spec refuses, and the functions that a restriction to low orders keeps."""

import numpy as np
import pytest

from eqmol.errors import InputError
from eqmol.ops import Spec
from tests.ops.cases import RESTRICTED, spec_id


@pytest.mark.parametrize(
    "change",
    [
        {"degree_in": 10**6},
        {"degree_out": -1},
        {"degree_filter": 1.0},
        {"parity": "p4"},
        {"family": "x"},
        {"order": 99},
    ],
    ids=str,
)
def test_impossible_specs_are_refused(change):
    arguments = {"operation": "power", "family": "gaunt", "parity": "o3"}
    arguments |= {"degree_in": 1, "degree_filter": 0, "degree_out": 1, "order": 2}
    with pytest.raises(InputError, match=next(iter(change))):
        Spec(**(arguments | change))


@pytest.mark.parametrize("order_max", [2, 3, 100])
def test_a_restriction_that_excludes_nothing_is_none(order_max):
    whole = Spec("convolution", "coupled", "so3", 2, 3, 4)
    assert Spec("convolution", "coupled", "so3", 2, 3, 4, order_max=order_max) == whole
    assert whole.order_max is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order_max": -1}, "order_max=-1 must be an integer"),
        ({"order_max": 1.0}, "order_max=1.0 must be an integer"),
        ({"family": "gaunt"}, "order_max=1 .* convolution of the gaunt family"),
        ({"operation": "product"}, "order_max=1 .* product of the coupled family"),
        ({"degree_filter": 4}, r"degree_filter=4 must be at least degree_in \+ degree_out = 5"),
    ],
    ids=str,
)
def test_impossible_restrictions_are_refused(change, message):
    arguments = {"operation": "convolution", "family": "coupled", "parity": "so3", "order_max": 1}
    arguments |= {"degree_in": 2, "degree_filter": 5, "degree_out": 3}
    with pytest.raises(InputError, match=message):
        Spec(**(arguments | change))


@pytest.mark.parametrize("spec", RESTRICTED, ids=spec_id)
def test_own_weights_of_a_restriction_are_orthogonal_in_the_paths(spec):
    """So that weights of one variance give every own weight the same share of its degree."""
    sizes = spec.paths * spec.path_normalization
    degree_out = np.array([l3 for _, l3, _, _ in spec.own_weights])
    count = np.bincount(degree_out)[degree_out]
    np.testing.assert_allclose(sizes @ sizes.T, np.diag((2 * degree_out + 1) / count), atol=1e-13)


@pytest.mark.parametrize("parity", ["o3", "so3"])
def test_numbers_of_weights(parity):
    """Per pair of degrees one cosine for every order, one sine for every order but 0."""
    pairs = [(l1, l3) for l1 in range(4) for l3 in range(4)]
    for order_max in range(3):
        spec = Spec("convolution", "coupled", parity, 3, 6, 3, order_max=order_max)
        orders = sum(min(l1, l3, order_max) for l1, l3 in pairs)
        assert spec.num_weights == orders + len(pairs) + (orders if parity == "so3" else 0)
        assert np.linalg.matrix_rank(spec.paths) == spec.num_weights
