"""Smooth envelope that takes every radial function to zero at the cutoff."""

from torch import Tensor


def polynomial_envelope(x: Tensor, exponent: int = 6) -> Tensor:
    """Polynomial that falls from 1 at x = 0 to 0 at x = 1; zero beyond.

    u(x) = 1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) - p(p+1)/2 x^(p+2), with p = ``exponent``. Its value and first two
    derivatives vanish at 1, so energies are twice continuously differentiable when an atom crosses the cutoff.

    Source: Gasteiger et al. 2020, arXiv:2003.03123, equation 8.

    Args:
        x: distance over cutoff, any shape.
        exponent: p >= 2; larger values keep the envelope near 1 for longer.

    Returns:
        Same shape as ``x``.
    """
    p = exponent
    # at x = 1 the clamp keeps the value at the triple zero, whose derivatives vanish too
    x = x.clamp(max=1.0)
    polynomial = x * (x * (-p * (p + 1) / 2) + p * (p + 2)) - (p + 1) * (p + 2) / 2
    return 1 + x**p * polynomial
