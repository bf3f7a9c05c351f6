"""Harmonics of vectors against harmonics of their directions."""

import pytest
import torch

from eqmol.so3 import directions
from eqmol.so3.directions import harmonics_of
from eqmol.so3.harmonics import spherical_harmonics

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("chunk", [4, 100])
@pytest.mark.parametrize("degree", [0, 1, 3, 6, 16])
def test_values_and_three_derivatives_are_those_of_the_directions(degree, chunk, monkeypatch):
    monkeypatch.setattr(directions, "CHUNK", chunk)
    vectors = torch.cat([2 * torch.eye(3), -torch.eye(3), torch.randn(5, 3)]).requires_grad_()
    found = harmonics_of(vectors, degree)
    expected = spherical_harmonics(vectors / vectors.norm(dim=-1, keepdim=True), degree)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    if degree == 0:
        assert not found.requires_grad
        return
    for _ in range(3):
        along = torch.randn_like(found) / degree
        found, expected = (torch.autograd.grad(f, vectors, along, create_graph=True)[0] for f in (found, expected))
        size = float(expected.detach().abs().max())
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * max(size, 1))


def test_no_vectors():
    vectors = torch.zeros(0, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(harmonics_of(vectors, 2).sum(), vectors)
    assert slope.shape == (0, 3)


def test_transformed_functions():
    vectors = torch.randn(4, 3)
    along = torch.randn(4, 16)
    found = torch.func.grad(lambda v: (harmonics_of(v, 3) * along).sum())(vectors)
    each = torch.func.vmap(torch.func.grad(lambda v, a: harmonics_of(v[None], 3)[0] @ a))(vectors, along)
    torch.testing.assert_close(each, found)
