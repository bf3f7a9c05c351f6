"""Wigner matrices: a representation, in the harmonics' own convention, from any rotation."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eqmol.so3.harmonics import spherical_harmonics
from eqmol.so3.layout import degree_slice
from eqmol.so3.wigner import wigner_matrices

pytestmark = pytest.mark.usefixtures("float64")

DEGREE = 10


def rotations(number: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(number, 3, 3, generator=generator, dtype=torch.float64)).Q
    return q * torch.linalg.det(q)[:, None, None]


def axis_rotations() -> torch.Tensor:
    """The 24 rotations that map axes to axes, the identity among them."""
    eye = torch.eye(3, dtype=torch.float64)
    signed = [eye[list(p)] * torch.tensor(s, dtype=torch.float64)[:, None] for p in PERMUTATIONS for s in SIGNS]
    return torch.stack([r for r in signed if torch.linalg.det(r) > 0])


PERMUTATIONS = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
SIGNS = [(a, b, c) for a in (1.0, -1.0) for b in (1.0, -1.0) for c in (1.0, -1.0)]


def test_degree_one_is_the_rotation():
    r = rotations(5)
    zero, one = wigner_matrices(r, 1)
    assert torch.equal(one, r)
    assert torch.equal(zero, torch.ones(5, 1, 1))


@given(seed=st.integers(0, 2**20))
def test_homomorphism(seed):
    r, s = rotations(2, seed)
    products = zip(*(wigner_matrices(m, DEGREE) for m in (r, s, r @ s)), strict=True)
    for of_r, of_s, of_both in products:
        torch.testing.assert_close(of_r @ of_s, of_both, atol=1e-12, rtol=0)


@given(seed=st.integers(0, 2**20))
def test_rotates_the_harmonics(seed):
    r = rotations(1, seed)[0]
    v = torch.nn.functional.normalize(torch.randn(20, 3, dtype=torch.float64), dim=-1)
    before, after = spherical_harmonics(v, DEGREE), spherical_harmonics(v @ r.T, DEGREE)
    for l, matrix in enumerate(wigner_matrices(r, DEGREE)):
        part = degree_slice(l)
        torch.testing.assert_close(after[:, part], before[:, part] @ matrix.T, atol=1e-12, rtol=0)


def test_orthogonal_also_for_rotations_among_the_axes():
    r = torch.cat([axis_rotations(), rotations(20)])
    assert len(axis_rotations()) == 24
    for l, matrix in enumerate(wigner_matrices(r, DEGREE)):
        torch.testing.assert_close(matrix @ matrix.mT, torch.eye(2 * l + 1).expand_as(matrix), atol=1e-12, rtol=0)
    for l, matrix in enumerate(wigner_matrices(torch.eye(3), DEGREE)):
        torch.testing.assert_close(matrix, torch.eye(2 * l + 1), atol=1e-14, rtol=0)


@pytest.mark.parametrize("order", [0, 1, 2, 4, 5, 9])
def test_columns_of_low_order_alone(order):
    r = rotations(4)
    for l, (some, every) in enumerate(zip(wigner_matrices(r, 5, order), wigner_matrices(r, 5), strict=True)):
        k = min(l, order)
        torch.testing.assert_close(some, every[..., l - k : l + k + 1], atol=1e-14, rtol=0)


def test_any_leading_dimensions():
    r = rotations(6)
    assert [tuple(m.shape) for m in wigner_matrices(r.view(2, 3, 3, 3), 2)] == [(2, 3, n, n) for n in (1, 3, 5)]
    assert [tuple(m.shape) for m in wigner_matrices(r[0], 2, 1)] == [(1, 1), (3, 3), (5, 3)]
    assert [tuple(m.shape) for m in wigner_matrices(r[:0], 2)] == [(0, n, n) for n in (1, 3, 5)]


def test_float32_is_stable():
    r = rotations(200)
    for single, double in zip(wigner_matrices(r.float(), DEGREE), wigner_matrices(r, DEGREE), strict=True):
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), double, atol=3e-6, rtol=0)


@pytest.mark.parametrize("order", [None, 1])
def test_twice_differentiable(order):
    r = torch.cat([rotations(1), torch.eye(3)[None]]).requires_grad_()

    def matrices(m: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(wigner_matrices(m, 4, order)[1:])

    assert torch.autograd.gradcheck(matrices, r, fast_mode=True)
    assert torch.autograd.gradgradcheck(matrices, r, fast_mode=True)
