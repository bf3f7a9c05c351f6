"""The sphere unrolled on a torus: spherical harmonics as 2D Fourier series (Luo et al. 2024, arXiv:2401.10216, sec. 3.2).

A function of degree d on the sphere is a trigonometric polynomial of degree d in both angles once θ runs over the full
circle, f(-θ, φ) = f(θ, φ + π). Products of such functions are products of samples on an equispaced torus; the way back
takes the discrete Fourier coefficients of the samples and integrates each against Y_lm sin θ in closed form. Both steps are
folded in one matrix. Of 2(d + 1) points in θ, shifted by half a step so that none lies on a pole, the d + 1 with
0 < θ < π are independent; no fewer suffice.
"""

import numpy as np

from eqmol.so3.layout import degrees, dim, orders
from eqmol.so3.quadrature import Rule, harmonics_at


def torus_rule(band: int, degree_out: int, rows: int | None = None, columns: int | None = None) -> Rule:
    """Equispaced rule, exact for functions of degree ``band`` projected on degrees up to ``degree_out``.

    ``rows`` (default band + 1) and ``columns`` (default band + degree_out + 1) are the smallest sufficient numbers.
    """
    rows = band + 1 if rows is None else rows
    columns = band + degree_out + 1 if columns is None else columns
    theta = np.pi * (np.arange(rows) + 0.5) / rows
    phi = 2 * np.pi * np.arange(columns) / columns
    polar = _polar_projection(theta, degree_out)
    m = orders(degree_out)
    wave = np.where(m >= 0, np.cos(np.abs(m) * phi[:, None]), np.sin(np.abs(m) * phi[:, None])) / columns
    projection = (polar[:, None, :] * wave[None, :, :]).reshape(-1, dim(degree_out))
    return Rule(np.repeat(theta, columns), np.tile(phi, rows), projection)


def _polar_projection(theta: np.ndarray, degree_out: int) -> np.ndarray:
    """Weights q [rows, lm]: ½ ∫ f(θ) Θ_lm(θ) sin θ dθ = Σ_j q_j f(θ_j) for the Fourier band that the rows resolve.

    A function of order m is a cosine series in θ for even m and a sine series for odd m; its coefficients are the discrete
    cosine or sine transform of the rows, and ∫ {cos, sin}(uθ) Θ_lm sin θ dθ is polynomial in cos θ.
    """
    rows = theta.size
    frequency = np.arange(rows)
    nodes, weights = np.polynomial.legendre.leggauss((rows + degree_out) // 2 + 2)
    exact = np.arccos(nodes)
    meridian = np.stack([np.zeros_like(exact), np.cos(exact), np.sin(exact)], -1)
    m = np.abs(orders(degree_out))
    harmonics = harmonics_at(meridian, degree_out)[:, degrees(degree_out) * (degrees(degree_out) + 1) + m]
    q = np.empty((rows, dim(degree_out)))
    for odd, series in enumerate((np.cos, np.sin)):
        chosen = m % 2 == odd
        transform = (2 - (frequency == 0)) / rows * series(theta[:, None] * frequency)
        integral = series(frequency[:, None] * exact) @ (weights[:, None] / 2 * harmonics[:, chosen])
        q[:, chosen] = transform @ integral
    return q
