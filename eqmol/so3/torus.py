"""The sphere unrolled on a torus: spherical harmonics as 2D Fourier series (Luo et al. 2024, arXiv:2401.10216, sec. 3.2).

A function of degree d on the sphere is a trigonometric polynomial of degree d in both angles once θ runs over the full
circle, f(-θ, φ) = f(θ, φ + π). Products of such functions are convolutions of their Fourier coefficients, or products of samples on
an equispaced torus; the way back takes the discrete Fourier coefficients of the samples and integrates each against Y_lm sin θ in
closed form. Of 2(d + 1) points in θ, shifted by half a step so that none lies on a pole, the d + 1 with 0 < θ < π are
independent; no fewer suffice for all functions on the torus. Those on the sphere are fewer, and smooth at the poles: there the
torus has more points than they need (:func:`sparse_torus_rule`).
"""

from math import isqrt

import numpy as np
import torch
from torch import Tensor

from eqmol.so3.layout import dim, orders
from eqmol.so3.quadrature import ProductRule, Rule


def torus_rule(band: int, degree_out: int, rows: int | None = None, columns: int | None = None) -> ProductRule:
    """Equispaced rule, exact for functions of degree ``band`` projected on degrees up to ``degree_out``.

    ``rows`` (default band + 1) and ``columns`` (default band + degree_out + 1) are the smallest sufficient numbers.
    """
    rows = band + 1 if rows is None else rows
    columns = band + degree_out + 1 if columns is None else columns
    theta = np.pi * (np.arange(rows) + 0.5) / rows
    return ProductRule.of(theta, columns, _polar_projection(theta, degree_out))


def sparse_torus_rule(band: int, degree_out: int) -> Rule:
    """As many points of :func:`torus_rule` as functions on the sphere of degree ``band`` need, (band + 1)² or fewer.

    They are taken one by one where those before tell least of such functions: approximate Fekete points by QR with pivoting
    (Sommariva and Vianello 2009, Comput. Math. Appl. 57, 1324). Of an even number of columns fewer are needed. The projection is
    the least one that is exact.
    """
    from scipy.linalg import qr  # most programs need not wait

    columns = band + degree_out + 1
    whole = torus_rule(band, degree_out, columns=columns + columns % 2)
    table = whole.sample(band)
    triangle, order = qr(table.T, mode="r", pivoting=True)
    told = np.abs(np.diag(triangle))
    chosen = np.sort(order[: np.sum(told > 1e-9 * told[0])])
    wanted = np.eye(dim(band), dim(degree_out))
    projection = np.linalg.lstsq(table[chosen].T, wanted, rcond=1e-9)[0]
    return Rule(whole.colatitude[chosen], whole.azimuth[chosen], projection)


def full_torus_rule(band: int, degree_out: int) -> ProductRule:
    """The same with θ over the full circle, of sizes that suit FFTs and hold all Fourier coefficients: at least 2 d + 1."""
    from scipy.fft import next_fast_len  # a quarter of a second, which most programs need not wait

    rows = next_fast_len(2 * band + 1)
    columns = next_fast_len(2 * max(band, degree_out) + 1, real=True)
    theta = 2 * np.pi * np.arange(rows) / rows
    return ProductRule.of(theta, columns, _polar_projection(theta, degree_out, (rows + 1) // 2))


def polar_series(polar: np.ndarray) -> np.ndarray:
    """Complex Fourier coefficients of functions sampled on the full circle of θ: [rows, lm] -> [frequencies ≥ 0, lm]."""
    return np.fft.rfft(polar, axis=0)[: (len(polar) + 1) // 2] / len(polar)


def fourier_series(x: Tensor) -> Tensor:
    """Coefficients c of a feature as a function on the torus, Σ_uv c_uv exp(i (u θ + v φ)), u, v = -L ... L.

    The product of two functions has the convolution of their coefficients.

    Args:
        x: [n, lm, C].

    Returns:
        Complex, [n, 2L + 1, 2L + 1, C].
    """
    degree = isqrt(x.shape[1]) - 1
    half = polar_series(full_torus_rule(degree, 0).factors(degree).polar)[: degree + 1]
    polar = np.concatenate([half[:0:-1].conj(), half])
    series = x.new_zeros(len(x), 2 * degree + 1, 2 * degree + 1, x.shape[2], dtype=x.dtype.to_complex())
    terms = torch.tensor(polar, dtype=series.dtype, device=x.device)[:, :, None] * x.unsqueeze(1)
    for sign, share in zip((1, -1), _shares(degree), strict=True):
        index = torch.tensor(degree + sign * np.abs(orders(degree)), device=x.device)
        factor = torch.tensor(share, dtype=series.dtype, device=x.device)[:, None]
        series = series.index_add(2, index, terms * factor)
    return series


def from_fourier_series(series: Tensor, degree_out: int) -> Tensor:
    """The feature of degrees up to ``degree_out`` of a real function on the torus.

    Args:
        series: complex [n, 2d + 1, 2d + 1, C], of a function with f(-θ, φ) = f(θ, φ + π), as those on the sphere and their
            products are.
        degree_out: highest degree.

    Returns:
        [n, lm, C].
    """
    band = series.shape[1] // 2
    m = np.abs(orders(degree_out))
    half = _integrals(band + 1, degree_out) * np.where(m % 2, 1j, 1)
    polar = np.concatenate([half[:0:-1].conj(), half]) * (m <= band)
    result = series.new_zeros(len(series), len(m), series.shape[3])
    for sign, share in zip((1, -1), _shares(degree_out), strict=True):
        index = torch.tensor(band + sign * np.minimum(m, band), device=series.device)
        weight = torch.tensor(polar * share.conj(), dtype=series.dtype, device=series.device)
        result = result + torch.einsum("ul,nulc->nlc", weight, series.index_select(2, index))
    return result.real


def _shares(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of exp(±i |m| φ) in the wave of every component; a constant is counted once."""
    m = orders(degree)
    plus = np.where(m > 0, 0.5, np.where(m < 0, -0.5j, 1))
    return plus, plus.conj() * (m != 0)


def _polar_projection(theta: np.ndarray, degree_out: int, frequencies: int | None = None) -> np.ndarray:
    """Weights q [rows, lm]: ½ ∫ f(θ) Θ_lm(θ) sin θ dθ = Σ_j q_j f(θ_j) for the Fourier band that the rows resolve.

    A function of order m is a cosine series in θ for even m and a sine series for odd m; its coefficients are the discrete
    cosine or sine transform of the rows, as many as there are ``frequencies`` (default: rows).
    """
    integrals = _integrals(theta.size if frequencies is None else frequencies, degree_out)
    frequency = np.arange(len(integrals))
    q = np.empty((theta.size, dim(degree_out)))
    for odd, series in enumerate((np.cos, np.sin)):
        chosen = orders(degree_out) % 2 == odd
        transform = (2 - (frequency == 0)) / theta.size * series(theta[:, None] * frequency)
        q[:, chosen] = transform @ integrals[:, chosen]
    return q


def _integrals(frequencies: int, degree_out: int) -> np.ndarray:
    """½ ∫ {cos, sin}(uθ) Θ_lm(θ) sin θ dθ over 0 ... π, cosines for even m, sines for odd m: [frequencies, lm].

    Polynomials in cos θ, so that Gauss-Legendre nodes integrate them exactly.
    """
    frequency = np.arange(frequencies)
    nodes, weights = np.polynomial.legendre.leggauss((frequencies + degree_out) // 2 + 2)
    theta = np.arccos(nodes)
    harmonics = ProductRule.of(theta, 1, np.ones((theta.size, 1))).factors(degree_out).polar
    result = np.empty((frequencies, dim(degree_out)))
    for odd, series in enumerate((np.cos, np.sin)):
        chosen = orders(degree_out) % 2 == odd
        result[:, chosen] = series(frequency[:, None] * theta) @ (weights[:, None] / 2 * harmonics[:, chosen])
    return result
