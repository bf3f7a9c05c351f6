"""Rules on the sphere and on the torus: exact at their size, wrong one row or one column below."""

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d

from eqmol.so3.quadrature import LEBEDEV_DEGREES, harmonics_at, lebedev_rule, sphere_rule
from eqmol.so3.torus import fourier_series, from_fourier_series, sparse_torus_rule, torus_rule

BANDS = [(0, 0), (3, 2), (6, 3), (8, 4), (9, 1), (4, 7), (16, 8)]


def shape(rule_factory, band, degree_out):
    rule = rule_factory(band, degree_out)
    rows = len(np.unique(rule.colatitude.round(12)))
    return rows, len(rule.azimuth) // rows


def error(rule, band, degree_out):
    """Of projecting every harmonic of the band."""
    size = min(band, degree_out) + 1
    expected = np.zeros(((degree_out + 1) ** 2, (band + 1) ** 2))
    expected[: size**2, : size**2] = np.eye(size**2)
    return np.abs(rule.projection.T @ rule.sample(band) - expected).max()


@pytest.mark.parametrize("factory", [sphere_rule, torus_rule, sparse_torus_rule, lebedev_rule])
@pytest.mark.parametrize(("band", "degree_out"), BANDS)
def test_exact(factory, band, degree_out):
    assert error(factory(band, degree_out), band, degree_out) < 1e-13


@pytest.mark.parametrize("factory", [sphere_rule, torus_rule])
@pytest.mark.parametrize(("band", "degree_out"), BANDS[1:])
def test_smallest_sufficient(factory, band, degree_out):
    rows, columns = shape(factory, band, degree_out)
    assert error(factory(band, degree_out, rows - 1, columns), band, degree_out) > 1e-2
    assert error(factory(band, degree_out, rows, columns - 1), band, degree_out) > 1e-2


@pytest.mark.parametrize("degree", LEBEDEV_DEGREES)
def test_points_of_lebedev_have_positive_weights_and_are_about_two_thirds(degree):
    rule, product = lebedev_rule(degree, 0), sphere_rule(degree, 0)
    assert (rule.projection > 0).all()
    assert 0.6 < len(rule.azimuth) / len(product.azimuth) < 0.85
    assert lebedev_rule(LEBEDEV_DEGREES[-1], 1) is None
    if degree < 17:
        assert error(rule, degree, 0) < 1e-13
        assert error(rule, degree + 1, 0) > 1e-3


@pytest.mark.parametrize(("band", "degree_out"), [*BANDS, (14, 7), (21, 1), (22, 11)])
def test_a_sparse_torus_has_the_points_that_are_needed(band, degree_out):
    rule, whole = sparse_torus_rule(band, degree_out), torus_rule(band, degree_out)
    assert len(rule.azimuth) <= min((band + 1) ** 2, (band + 1) * (band + degree_out + 2))
    if degree_out == band // 2:
        assert len(rule.azimuth) <= len(sphere_rule(band, degree_out).azimuth)
    assert error(rule, band, degree_out) < 1e-13
    # rounding of samples grows by no more than three times
    growth = [np.sqrt(len(r.azimuth) * np.square(r.projection).sum(0).max()) for r in (rule, whole)]
    assert growth[0] < 3 * growth[1]


@pytest.mark.parametrize(("band", "degree_out"), BANDS)
def test_stated_sizes(band, degree_out):
    columns = band + degree_out + 1
    assert shape(sphere_rule, band, degree_out) == ((band + degree_out) // 2 + 1, columns)
    assert shape(torus_rule, band, degree_out) == (band + 1, columns)


@pytest.mark.parametrize("factory", [sphere_rule, torus_rule, sparse_torus_rule, lebedev_rule])
def test_gradients_are_tangential_derivatives(factory):
    rule, step = factory(5, 2), 1e-6
    south, east = rule.tangents
    np.testing.assert_allclose(np.cross(south, east), rule.points, atol=1e-14)
    scale = np.sqrt([1] + [l * (l + 1) for l in (1, 2) for _ in range(2 * l + 1)])
    for slope, tangent in zip(rule.gradient(2), (south, east), strict=True):
        ahead, behind = (rule.points + s * step * tangent for s in (1, -1))
        expected = (harmonics_at(ahead, 2) - harmonics_at(behind, 2)) / (2 * step)
        np.testing.assert_allclose(slope * scale, expected, atol=1e-8)  # finite differences


@pytest.mark.parametrize("factory", [sphere_rule, torus_rule, sparse_torus_rule, lebedev_rule])
def test_tables_are_products(factory):
    rule = factory(7, 3)
    tables = [rule.factors(5), *rule.gradient_factors(5), rule.projection_factors]
    expected = [rule.sample(5), *rule.gradient(5), rule.projection]
    for factors, table in zip(tables, expected, strict=True):
        np.testing.assert_allclose(factors.dense(rule.columns), table, atol=1e-13)


@pytest.mark.parametrize(("first", "second", "degree_out"), [(2, 3, 6), (1, 1, 0), (0, 3, 2)])
def test_a_product_is_a_convolution_of_fourier_series(first, second, degree_out):
    x, y = (torch.randn(2, (l + 1) ** 2, 1, dtype=torch.float64) for l in (first, second))
    series = [fourier_series(t)[..., 0].numpy() for t in (x, y)]
    convolved = np.stack([convolve2d(a, b) for a, b in zip(*series, strict=True)])
    rule = sphere_rule(first + second, degree_out)
    product = torch.tensor(rule.sample(first)) @ x * (torch.tensor(rule.sample(second)) @ y)
    expected = torch.tensor(rule.projection).T @ product
    found = from_fourier_series(torch.tensor(convolved)[..., None], degree_out)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(from_fourier_series(fourier_series(x), first), x, atol=1e-12, rtol=0)


def test_a_fourier_series_is_the_function():
    x, theta, phi = torch.randn(1, 16, 1, dtype=torch.float64), np.array([0.3, 2.0]), np.array([-1.0, 4.0])
    points = np.stack([np.sin(theta) * np.sin(phi), np.cos(theta), np.sin(theta) * np.cos(phi)], -1)
    frequency = np.arange(-3, 4)
    waves = [np.exp(1j * angle[:, None] * frequency) for angle in (theta, phi)]
    found = np.einsum("gu,gv,uv->g", *waves, fourier_series(x)[0, :, :, 0].numpy())
    np.testing.assert_allclose(found, harmonics_at(points, 3) @ x[0, :, 0].numpy(), atol=1e-13)
