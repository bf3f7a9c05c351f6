"""What a spec refuses, and the functions that a restriction to low orders keeps."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from eqmol.errors import InputError
from eqmol.ops import RadialWeight, Spec, dense
from eqmol.ops.laws import make_case
from tests.ops.cases import BLOCKS, RESTRICTED, spec_id


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
        ({"operation": "mixing", "family": "gaunt"}, "a mixing of family=gaunt"),
        ({"operation": "mixing", "degree_filter": 4}, "degree_filter=4 is none"),
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "gaunt"}, "needs a convolution of the coupled family"),
        ({"operation": "product"}, "needs a convolution of the coupled family"),
        ({"order_max": 0, "degree_filter": 2}, "with order_max=None"),
        ({"block_paths": ()}, "must be a tuple of blocks"),
        ({"block_paths": [((0, 0, 0),)]}, "must be a tuple of blocks"),
        ({"block_paths": ((0, 0, 0),)}, "has 0, which is none of the paths"),
        ({"block_paths": (((0, 0, 0),), ())}, "a block without paths"),
        ({"block_paths": (((0, 0, 0), (0, 0, 0)),)}, "one path twice"),
        ({"block_paths": (((1, 1, 1),),)}, r"has \(1, 1, 1\), which is none of the paths"),
    ],
    ids=str,
)
def test_impossible_blocks_are_refused(change, message):
    arguments = {"operation": "convolution", "family": "coupled", "parity": "o3", "block_paths": (((0, 0, 0),),)}
    arguments |= {"degree_in": 1, "degree_filter": 1, "degree_out": 1}
    with pytest.raises(InputError, match=message):
        Spec(**(arguments | change))


def test_one_block_of_all_paths_is_none():
    whole = Spec("convolution", "coupled", "so3", 2, 3, 1)
    assert Spec("convolution", "coupled", "so3", 2, 3, 1, block_paths=(whole.pair_paths[::-1],)) == whole
    assert Spec("convolution", "coupled", "o3", 0, 3, 3).with_separate_paths().block_paths is None


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("spec", BLOCKS, ids=spec_id)
def test_blocks_are_channels_of_the_whole_convolution_with_zeros(spec):
    """Features stand in every block, and weights of paths that a block has not are zero."""
    whole = replace(spec, block_paths=None)
    case = make_case(spec, channels=2)
    hidden, matrix = case.weights
    repeated = torch.zeros(len(matrix), whole.num_paths, spec.num_blocks, 2)
    for p, (path, block) in enumerate(zip(spec.pair_paths, spec.path_blocks, strict=True)):
        q = whole.pair_paths.index(path)
        repeated[:, q, block] = matrix[:, p] * (spec.path_normalization[p] / whole.path_normalization[q])
    x = case.features[0].repeat(1, 1, spec.num_blocks)
    ends = case.senders, case.receivers, len(x)
    expected = dense.convolution(whole, x, case.vectors, RadialWeight(hidden, repeated.flatten(2)), *ends)
    torch.testing.assert_close(case.reference(), expected, atol=1e-12, rtol=0)
