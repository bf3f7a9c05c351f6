"""Coupling coefficients of real harmonics, from integrals over the sphere.

The 3j symbol of degrees (l1, l2, l3) is, up to a positive factor, the mean of Y_l1 Y_l2 Y_l3 when l1 + l2 + l3 is even
and the mean of the surface curl pairing r·(∇Y_l1 × ∇Y_l2) Y_l3 when it is odd. This fixes every sign, and makes the
factors of the Gaunt product and of the curl pairing positive. All float64 NumPy.

Sources: Luo et al. 2024, arXiv:2401.10216 (Gaunt product); arXiv:2605.15073 (Poisson bracket on the sphere).
"""

from functools import lru_cache

import numpy as np

from eqmol.so3.layout import degree_slice
from eqmol.so3.quadrature import sphere_rule


def is_coupled(l1: int, l2: int, l3: int) -> bool:
    """Whether the degrees satisfy the triangle inequality.

    >>> is_coupled(1, 1, 2), is_coupled(1, 1, 3)
    (True, False)
    """
    return abs(l1 - l2) <= l3 <= l1 + l2


@lru_cache(maxsize=256)
def _samples(degree: int, band: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rule = sphere_rule(band, 0)
    value = rule.sample(degree)
    south, east = rule.gradient(degree)
    return rule.projection[:, 0], value, south, east


@lru_cache(maxsize=16)
def _polar_samples(degree: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For three degrees up to ``degree``."""
    rule = sphere_rule(3 * degree, 0)
    south, east = rule.gradient_factors(degree)
    return rule.polar[:, 0], rule.factors(degree).polar, south.polar, east.polar


@lru_cache(maxsize=4096)
def pairing(l1: int, l2: int, l3: int) -> np.ndarray:
    """Integral of the product (even l1+l2+l3) or the degree-normalised curl pairing (odd) of two harmonics with a third.

    Returns:
        [2 l1 + 1, 2 l2 + 1, 2 l3 + 1], read-only.
    """
    mean, value, south, east = _samples(max(l1, l2, l3), l1 + l2 + l3)
    a, b, c = degree_slice(l1), degree_slice(l2), degree_slice(l3)
    third = mean[:, None] * value[:, c]
    if (l1 + l2 + l3) % 2 == 0:
        tensor: np.ndarray = np.einsum("ga,gb,gc->abc", value[:, a], value[:, b], third, optimize=True)
    else:
        tensor = np.einsum("ga,gb,gc->abc", south[:, a], east[:, b], third, optimize=True)
        tensor -= np.einsum("ga,gb,gc->abc", east[:, a], south[:, b], third, optimize=True)
    tensor[np.abs(tensor) < 1e-13] = 0.0
    tensor.flags.writeable = False
    return tensor


@lru_cache(maxsize=4096)
def pairing_factor(l1: int, l2: int, l3: int) -> float:
    """Frobenius norm of :func:`pairing`: pairing = factor · 3j. Positive for every coupled triple.

    All components of the third degree have equal shares, and that of order 0 meets only pairs of orders (m, ±m).
    """
    weight, value, south, east = _polar_samples(-(-max(l1, l2, l3) // 8) * 8)
    m = np.arange(-min(l1, l2), min(l1, l2) + 1)
    first, second = l1 * (l1 + 1), l2 * (l2 + 1)
    if (l1 + l2 + l3) % 2 == 0:
        density = value[:, first + m] * value[:, second + m]
    else:
        density = south[:, first + m] * east[:, second - m] - east[:, first + m] * south[:, second - m]
    integral = (weight * value[:, l3 * (l3 + 1)]) @ density * np.where(m, 0.5, 1)  # the mean of cos² is a half
    return float(np.sqrt(2 * l3 + 1) * np.linalg.norm(integral))


@lru_cache(maxsize=4096)
def wigner_3j(l1: int, l2: int, l3: int) -> np.ndarray:
    """Real 3j symbol of unit Frobenius norm, [2 l1 + 1, 2 l2 + 1, 2 l3 + 1], read-only.

    Two vectors couple to their dot product, and to their cross product:

    >>> x, y = np.array([1.0, 2.0, 3.0]), np.array([0.0, 1.0, 5.0])
    >>> bool(np.isclose(x @ wigner_3j(1, 1, 0)[..., 0] @ y, x @ y / np.sqrt(3)))
    True
    >>> bool(np.allclose(np.einsum("a,b,abc->c", x, y, wigner_3j(1, 1, 1)), np.cross(x, y) / np.sqrt(6)))
    True

    Raises:
        ValueError: the degrees violate the triangle inequality.
    """
    if not is_coupled(l1, l2, l3):
        raise ValueError(f"degrees ({l1}, {l2}, {l3}) violate the triangle inequality")
    tensor: np.ndarray = pairing(l1, l2, l3) / np.linalg.norm(pairing(l1, l2, l3))
    tensor.flags.writeable = False
    return tensor
