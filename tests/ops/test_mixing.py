"""Mixing of channels and degrees: the depthwise convolution inside it, shared factors, and derivatives of the geometry."""

import pytest
import torch

from eqmol.ops import RadialWeight, Spec, dense
from eqmol.ops.laws import make_case
from eqmol.ops.registry import create
from tests.ops.cases import MIXINGS, spec_id

pytestmark = pytest.mark.usefixtures("float64")

CHANNELS = 3


@pytest.mark.parametrize("order_max", [1, None])
@pytest.mark.parametrize("parity", ["o3", "so3"])
@pytest.mark.parametrize("backend", ["cg", "escn"])
def test_diagonal_weights_are_the_depthwise_convolution(backend: str, parity: str, order_max: int | None) -> None:
    mixing = Spec("mixing", "coupled", parity, 2, 5, 3, order_max=order_max)
    convolution = Spec("convolution", "coupled", parity, 2, 5, 3, order_max=order_max)
    case = make_case(mixing, channels=CHANNELS)
    (x,), own = case.features, torch.randn(mixing.num_weights, CHANNELS)
    factors, ends = RadialWeight(*case.weights[:2]), (case.senders, case.receivers, len(x))
    op = create(mixing, backend)
    mixed = op(x, op.geometry(case.vectors), factors, torch.diag_embed(own), *ends)
    places = [mixing.own_factors.index((m, l1)) for l1, _, _, m in mixing.own_weights]
    weight = factors.matrix[:, places] * own
    if order_max is None:  # a convolution of all orders has the weights of paths
        weight = torch.einsum("hsc,sp->hpc", weight, torch.tensor(mixing.paths))
    found = dense.convolution(convolution, x, case.vectors, RadialWeight(factors.hidden, weight), *ends)
    torch.testing.assert_close(mixed, found, atol=1e-10, rtol=0)


@pytest.mark.parametrize("spec", MIXINGS[1::3], ids=spec_id)
@pytest.mark.parametrize("backend", ["cg", "escn"])
def test_factors_of_a_degree_are_shared_by_its_orders_and_none_are_ones(backend: str, spec: Spec) -> None:
    op, case = create(spec, backend), make_case(spec, channels=CHANNELS)
    (x,), (hidden, _, weight) = case.features, case.weights
    ends = case.senders, case.receivers, len(x)
    shared = torch.randn(2, spec.degree_in + 1, CHANNELS)
    each = shared[:, [l1 for _, l1 in spec.own_factors]]
    results = [
        op(x, op.geometry(case.vectors), RadialWeight(hidden, matrix), weight, *ends) for matrix in (shared, each)
    ]
    torch.testing.assert_close(*results, atol=1e-12, rtol=0)
    ones = RadialWeight(torch.ones(len(hidden), 1), torch.ones(1, spec.degree_in + 1, CHANNELS))
    plain = op(x, op.geometry(case.vectors), None, weight, *ends)
    torch.testing.assert_close(plain, op(x, op.geometry(case.vectors), ones, weight, *ends), atol=1e-12, rtol=0)
    assert not torch.allclose(plain, results[0])


def test_geometry_is_that_of_convolutions_in_the_frame() -> None:
    mixing = create(Spec("mixing", "coupled", "so3", 3, 6, 3, order_max=2), "escn")
    convolution = create(Spec("convolution", "coupled", "so3", 3, 6, 3, order_max=2), "escn")
    assert mixing.geometry_key == convolution.geometry_key
    vectors = torch.randn(5, 3)
    assert torch.equal(mixing.geometry(vectors), convolution.geometry(vectors))
