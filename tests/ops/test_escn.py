"""Convolution in the edge frame: the laws at more degrees than the shared suite, and the parts that only it has."""

from itertools import product

import numpy as np
import pytest
import torch

from eqmol.ops import RadialWeight, Spec, so2
from eqmol.ops.escn import ESCNConvolution, edge_frame_blocks
from eqmol.ops.laws import make_case
from tests.ops.cases import spec_id

pytestmark = pytest.mark.usefixtures("float64")

KINDS = [(family, parity) for family in ("coupled", "gaunt") for parity in ("o3", "so3")]
SMALL = [
    Spec("convolution", family, parity, *degrees)
    for family, parity in KINDS
    for degrees in ((1, 2, 1), (2, 3, 2), (1, 3, 3), (3, 2, 0))
]


@pytest.mark.parametrize(("family", "parity"), KINDS)
def test_equals_the_reference_at_all_degrees_to_four(family, parity):
    for degrees in product(range(5), repeat=3):
        spec = Spec("convolution", family, parity, *degrees)
        case = make_case(spec, nodes=2, channels=2, edges=8)
        found, expected = case.run(ESCNConvolution(spec)), case.reference()
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=0, msg=lambda text, spec=spec: f"{spec}: {text}")


def test_weights_of_paths_are_an_orthogonal_change_of_basis():
    """Per pair of degrees, up to the constants of the paths, with every filter degree present."""
    spec = Spec("convolution", "coupled", "so3", 4, 8, 4)
    blocks, paths = edge_frame_blocks(spec)
    assert paths.shape == (85, 85)
    # an order m > 0 counts twice, for m and -m
    orders = [m for b in blocks for m in (*range(b.k + 1), *range(1, b.k + 1))]
    double = np.where(np.array(orders) > 0, 2.0, 1.0)
    l2 = np.array([l for _, l, _ in spec.pair_paths])
    norm = np.sqrt(2 * l2 + 1) * spec.path_normalization
    basis = paths / norm[:, None] * np.sqrt(double)
    np.testing.assert_allclose((basis @ basis.T) * (2 * l2 + 1), np.eye(85), atol=1e-13)


@pytest.mark.parametrize("parity", ["o3", "so3"])
def test_sine_weights_only_without_mirror_symmetry(parity):
    blocks, _ = edge_frame_blocks(Spec("convolution", "coupled", parity, 3, 3, 2))
    assert all(block.cosine for block in blocks if block.source == block.target)
    assert any(block.sine for block in blocks) == (parity == "so3")


@pytest.mark.parametrize("spec", SMALL, ids=spec_id)
def test_gradients_in_everything_with_edges_along_the_axes(spec):
    op = ESCNConvolution(spec)
    case = make_case(spec, nodes=2, channels=2, edges=8)
    leaves = [t.detach().clone().requires_grad_() for t in (*case.features, *case.weights, case.vectors)]

    def convolve(x, hidden, matrix, vectors):
        return case.evaluate(op, [x], [hidden, matrix], vectors)

    assert torch.autograd.gradcheck(convolve, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(convolve, leaves, fast_mode=True)


@pytest.mark.parametrize("spec", SMALL[1::4], ids=spec_id)
def test_no_seam_between_the_charts(spec):
    """Values and both derivatives agree on either side of y = 0."""
    op, case = ESCNConvolution(spec), make_case(spec, nodes=2, channels=2, edges=4)
    base = torch.tensor([[1.0, 0, 0], [0, 0, -1.0], [-0.6, 0, 0.8], [0.3, 0, 0.5]])
    found = []
    for y in (1e-13, -1e-13):
        vectors = (base + torch.tensor([0, y, 0])).requires_grad_()
        out = case.evaluate(op, case.features, case.weights, vectors)
        (first,) = torch.autograd.grad(out.sin().sum(), vectors, create_graph=True)
        (second,) = torch.autograd.grad(first.cos().sum(), vectors)
        found.append((out, first, second))
    for above, below in zip(*found, strict=True):
        torch.testing.assert_close(above, below, atol=1e-9, rtol=1e-9)


def test_third_derivatives():
    """The message is closed under differentiation."""
    op = ESCNConvolution(Spec("convolution", "coupled", "so3", 1, 2, 1))
    hidden, matrix = torch.randn(2, 2), torch.randn(2, op.spec.num_weights, 1)
    geometry = op.geometry(torch.randn(2, 3))
    leaves = [t.detach().requires_grad_() for t in (hidden, matrix, torch.randn(2, 4, 1), geometry)]

    def slope(hidden, matrix, x, geometry) -> tuple[torch.Tensor, ...]:
        out = op.message(x, geometry, RadialWeight(hidden, matrix))
        return torch.autograd.grad(out.pow(3).sum(), (hidden, matrix, x, geometry), create_graph=True)

    assert torch.autograd.gradcheck(slope, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(slope, leaves, fast_mode=True)


def test_geometry_is_shared_between_layers_of_equal_degrees():
    a, b, c = (ESCNConvolution(Spec("convolution", "coupled", "o3", *d)) for d in ((1, 3, 3), (3, 1, 1), (2, 3, 3)))
    assert a.geometry_key == b.geometry_key != c.geometry_key
    vectors = torch.randn(5, 3)
    assert torch.equal(a.geometry(vectors), b.geometry(vectors))


@pytest.mark.parametrize("spec", SMALL[1::4], ids=spec_id)
def test_float32_agrees_with_float64(spec):
    case = make_case(spec)
    expected = case.run(ESCNConvolution(spec))
    single = case.evaluate(
        ESCNConvolution(spec).float(),
        [case.features[0].float()],
        [w.float() for w in case.weights],
        case.vectors.float(),
    )
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 60])
@pytest.mark.parametrize(("a", "b"), [(1, 1), (3, 3), (3, 5), (5, 3)])
def test_small_matrix_products(a, b, channels):
    """Both ways of computing them."""
    matrix, features, out = torch.randn(4, a, b), torch.randn(4, b, channels), torch.empty(4, a, channels)
    expected = torch.einsum("eab,ebc->eac", matrix, features)
    torch.testing.assert_close(so2.matmul(matrix, features), expected, atol=1e-13, rtol=0)
    assert so2.matmul(matrix, features, out) is out
    torch.testing.assert_close(out, expected, atol=1e-13, rtol=0)
