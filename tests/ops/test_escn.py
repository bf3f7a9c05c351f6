"""Convolution in the edge frame: the laws at more degrees than the shared suite, and the parts that only it has."""

from itertools import product

import numpy as np
import pytest
import torch

from eqmol.ops import RadialWeight, Spec, so2
from eqmol.ops.escn import ESCNConvolution, edge_frame_blocks
from eqmol.ops.rotate import outer, rotate
from tests.ops.cases import make_case, spec_id

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
    double = np.full(blocks.num_weights, 2.0)
    double[[b.cosine for b in blocks.blocks]] = 1
    l2 = np.array([l for _, l, _ in spec.pair_paths])
    norm = np.sqrt(2 * l2 + 1) * spec.path_normalization
    basis = paths / norm[:, None] * np.sqrt(double)
    np.testing.assert_allclose((basis @ basis.T) * (2 * l2 + 1), np.eye(85), atol=1e-13)


@pytest.mark.parametrize("parity", ["o3", "so3"])
def test_sine_weights_only_without_mirror_symmetry(parity):
    blocks, _ = edge_frame_blocks(Spec("convolution", "coupled", parity, 3, 3, 2))
    assert all(block.cosine is not None for block in blocks.blocks if block.source == block.target)
    assert any(block.sine is not None for block in blocks.blocks) == (parity == "so3")


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


@pytest.mark.parametrize("spec", SMALL[1::4], ids=spec_id)
def test_chunks_do_not_change_the_result(spec, monkeypatch):
    def derivatives() -> list[torch.Tensor]:
        torch.manual_seed(1)
        case = make_case(spec, nodes=5, channels=3, edges=70)
        leaves = [t.detach().clone().requires_grad_() for t in (*case.features, *case.weights, case.vectors)]
        out = case.evaluate(ESCNConvolution(spec), leaves[:1], leaves[1:3], leaves[3])
        first = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
        return [out, *first, *torch.autograd.grad(sum(g.sin().sum() for g in first), leaves)]

    whole = derivatives()
    monkeypatch.setattr(so2, "CHUNK_ELEMENTS", 1)
    for a, b in zip(whole, derivatives(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


def test_third_derivatives():
    """The product of the edge frame is closed under differentiation."""
    blocks, _ = edge_frame_blocks(Spec("convolution", "coupled", "so3", 1, 2, 1))
    hidden, matrix = torch.randn(2, 2), torch.randn(2, blocks.num_weights, 1)
    leaves = [t.requires_grad_() for t in (hidden, matrix, torch.randn(2, 1, 1), torch.randn(2, 3, 1))]

    def slope(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        out = so2.contract(blocks, tensors[0], tensors[1], tensors[2:])
        return torch.autograd.grad(sum(y.pow(3).sum() for y in out), tensors, create_graph=True)

    assert torch.autograd.gradcheck(slope, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(slope, leaves, fast_mode=True)


@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (3,), (1, 3), (0, 2)], ids=str)
def test_gradients_of_some_inputs_only(needed):
    spec = Spec("convolution", "coupled", "so3", 2, 2, 1)
    op, case = ESCNConvolution(spec), make_case(spec)
    tensors = [t.detach().clone() for t in (*case.features, *case.weights, case.vectors)]

    def derivatives(leaves: tuple[int, ...]) -> list[torch.Tensor]:
        inputs = [t.clone().requires_grad_(i in leaves) for i, t in enumerate(tensors)]
        out = case.evaluate(op, inputs[:1], inputs[1:3], inputs[3])
        wanted = [inputs[i] for i in needed]
        first = torch.autograd.grad(out.square().sum(), wanted, create_graph=True)
        return [*first, *torch.autograd.grad(sum(g.square().sum() for g in first), wanted)]

    for some, every in zip(derivatives(needed), derivatives((0, 1, 2, 3)), strict=True):
        torch.testing.assert_close(some, every, atol=1e-10, rtol=1e-10)


def test_no_edges():
    spec = Spec("convolution", "coupled", "o3", 2, 2, 1)
    op, case = ESCNConvolution(spec), make_case(spec)
    x, vectors = case.features[0].requires_grad_(), torch.zeros(0, 3, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    out = op(x, op.geometry(vectors), RadialWeight(torch.zeros(0, 2), case.weights[1]), none, none, 4)
    assert torch.equal(out, torch.zeros(4, 4, 3))
    assert torch.equal(torch.autograd.grad(out.sum(), x)[0], torch.zeros_like(x))


def test_geometry_is_shared_between_layers_of_equal_degrees():
    a, b, c = (ESCNConvolution(Spec("convolution", "coupled", "o3", *d)) for d in ((1, 3, 3), (3, 1, 1), (2, 3, 3)))
    assert a.geometry_key == b.geometry_key != c.geometry_key
    vectors = torch.randn(5, 3)
    for mine, other in zip(a.geometry(vectors), b.geometry(vectors), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("spec", SMALL[1::4], ids=spec_id)
def test_float32_agrees_with_float64(spec):
    op, case = ESCNConvolution(spec), make_case(spec)
    single = case.evaluate(op, [case.features[0].float()], [w.float() for w in case.weights], case.vectors.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), case.run(op), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 60])
@pytest.mark.parametrize(("a", "b"), [(3, 3), (3, 5), (5, 3)])
def test_rotate_and_outer(a, b, channels):
    """Both ways of computing them, and their derivatives."""
    matrix, features, left = torch.randn(4, a, b), torch.randn(4, b, channels), torch.randn(4, a, channels)
    torch.testing.assert_close(rotate(matrix, features), matrix @ features, atol=1e-13, rtol=0)
    torch.testing.assert_close(outer(left, features), left @ features.mT, atol=1e-13, rtol=0)
    for function, leaves in ((rotate, (matrix, features)), (outer, (left, features))):
        inputs = [t.clone().requires_grad_() for t in leaves]
        assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)
