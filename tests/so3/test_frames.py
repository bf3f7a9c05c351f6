"""Edge frames: proper rotations onto the direction, smooth in every derivative away from the seam and at every axis."""

import pytest
import torch

from eqmol.so3.frames import edge_frames, polar_coupling

pytestmark = pytest.mark.usefixtures("float64")

AXES = torch.cat([torch.eye(3), -torch.eye(3)]).double()


def directions(number: int = 50) -> torch.Tensor:
    return torch.cat([AXES, torch.nn.functional.normalize(torch.randn(number, 3), dim=-1)])


def test_takes_the_polar_axis_to_the_direction():
    n = directions()
    torch.testing.assert_close(edge_frames(n)[..., 1], n, atol=0, rtol=0)


def test_proper_rotations():
    frames = edge_frames(directions())
    torch.testing.assert_close(frames @ frames.mT, torch.eye(3).expand_as(frames), atol=1e-15, rtol=0)
    torch.testing.assert_close(torch.linalg.det(frames), torch.ones(len(frames)), atol=1e-15, rtol=0)


def test_minimal_rotation_in_the_north_and_half_turn_in_the_south():
    north, south = edge_frames(torch.tensor([[0.0, 1, 0], [0, -1, 0]]))
    torch.testing.assert_close(north, torch.eye(3), atol=0, rtol=0)
    torch.testing.assert_close(south, torch.diag(torch.tensor([1.0, -1, -1])), atol=0, rtol=0)


def test_repeatable_and_independent_of_the_batch():
    n = directions()
    assert torch.equal(edge_frames(n), edge_frames(n))
    assert torch.equal(edge_frames(n)[7], edge_frames(n[7]))
    assert edge_frames(n[:0]).shape == (0, 3, 3)


def test_derivatives_along_the_axes():
    def frames(vectors: torch.Tensor) -> torch.Tensor:
        return edge_frames(vectors / vectors.norm(dim=-1, keepdim=True))

    # off the seam y = 0, where the charts are glued by a rotation about the edge
    for vectors in (AXES[1::3], torch.tensor([[0.3, 0.2, -1.0], [1e-3, -0.5, 0.0], [0, 0.1, 1.0]])):
        leaf = (1.3 * vectors).requires_grad_()
        assert torch.autograd.gradcheck(frames, leaf)
        assert torch.autograd.gradgradcheck(frames, leaf)


def test_finite_derivatives_on_the_seam():
    leaf = AXES.clone().requires_grad_()
    weight = torch.randn(6, 3, 3)
    (first,) = torch.autograd.grad((edge_frames(leaf) * weight).sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), leaf)
    assert first.isfinite().all()
    assert second.isfinite().all()


def test_float32_near_the_poles():
    tilt = torch.logspace(-8, 0, 30)
    zero = torch.zeros_like(tilt)
    for sign in (1.0, -1.0):
        n = torch.nn.functional.normalize(torch.stack([tilt, sign * torch.ones_like(tilt), zero], dim=-1), dim=-1)
        torch.testing.assert_close(edge_frames(n.float()).double(), edge_frames(n), atol=3e-7, rtol=0)


@pytest.mark.parametrize(("l1", "l3"), [(0, 2), (2, 2), (3, 1), (4, 3)])
@pytest.mark.parametrize("odd", [0, 1])
def test_polar_couplings_of_one_parity_are_orthonormal(l1, l3, odd):
    l2 = [l for l in range(abs(l1 - l3), l1 + l3 + 1) if (l1 + l + l3) % 2 == odd]
    rows = torch.tensor([polar_coupling(l1, l, l3).tolist() for l in l2]).reshape(-1, min(l1, l3) + 1)
    twice = torch.tensor([1.0] + [2.0] * min(l1, l3))
    torch.testing.assert_close((rows * twice) @ rows.T, torch.eye(len(l2)), atol=1e-13, rtol=0)
    assert len(l2) == min(l1, l3) + 1 - odd
