"""Harmonics against scipy and e3nn, to every degree and derivative."""

import math

import numpy as np
import pytest
import torch
from e3nn import o3
from scipy.special import sph_harm_y

from eqmol.so3.harmonics import spherical_harmonics
from eqmol.so3.layout import degrees, dim, orders

pytestmark = pytest.mark.usefixtures("float64")


def directions(n: int = 40) -> torch.Tensor:
    r = torch.cat([torch.eye(3), -torch.eye(3), torch.randn(n, 3)])
    return r / r.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("degree", [0, 1, 3, 8, 12])
def test_scipy(degree):
    r = directions()
    theta = torch.arccos(r[:, 1].clamp(-1, 1)).numpy()
    phi = torch.atan2(r[:, 0], r[:, 2]).numpy()
    expected = np.empty((len(r), dim(degree)))
    for i, (l, m) in enumerate(zip(degrees(degree), orders(degree), strict=True)):
        y = sph_harm_y(l, abs(m), theta, phi) * math.sqrt(4 * math.pi)  # carries the Condon-Shortley sign
        part = y.real if m >= 0 else y.imag
        expected[:, i] = part * (1 if m == 0 else math.sqrt(2) * (-1.0) ** m)
    torch.testing.assert_close(spherical_harmonics(r, degree), torch.tensor(expected), atol=1e-12, rtol=0)


@pytest.mark.parametrize("degree", [1, 4, 8])
def test_e3nn(degree):
    r = directions()
    expected = o3.spherical_harmonics(list(range(degree + 1)), r, normalize=False, normalization="component")
    torch.testing.assert_close(spherical_harmonics(r, degree), expected, atol=1e-12, rtol=0)


def test_degree_one_reads_x_y_z():
    r = directions()
    torch.testing.assert_close(spherical_harmonics(r, 1)[:, 1:], math.sqrt(3) * r)


def test_component_normalised():
    squares = spherical_harmonics(directions(), 8).square()
    for l in range(9):
        expected = torch.full((len(squares),), 2.0 * l + 1)
        torch.testing.assert_close(squares[:, l * l : (l + 1) ** 2].sum(-1), expected)


def test_float32_at_high_degree():
    r = directions(200)
    error = spherical_harmonics(r.float(), 10).double() - spherical_harmonics(r.float().double(), 10)
    assert error.abs().max() < 3e-5


def test_smooth_at_the_axes():
    r = torch.cat([torch.eye(3), -torch.eye(3)]).requires_grad_()

    def function(v: torch.Tensor) -> torch.Tensor:
        return spherical_harmonics(v / v.norm(dim=-1, keepdim=True), 4)

    assert torch.autograd.gradcheck(function, r)
    assert torch.autograd.gradgradcheck(function, r, fast_mode=True)
