"""Gaunt family by 2D Fourier series (Luo et al. 2024, arXiv:2401.10216).

Functions on the sphere become trigonometric polynomials on the torus; their product is a convolution of Fourier coefficients,
computed on the smallest sufficient equispaced torus. The discrete Fourier transforms are matrices folded with the change of
basis, which is faster than the FFTs of :mod:`eqmol.ops.gaunt_fft` at the degrees of molecules.
"""

from eqmol.ops.sampled import Sampled, SampledProduct
from eqmol.ops.sampled_convolution import SampledConvolution
from eqmol.ops.sampled_power import SampledPower
from eqmol.so3.quadrature import ProductRule
from eqmol.so3.torus import torus_rule


class OnTorus(Sampled):
    """Equispaced points of the torus."""

    def rule(self, band: int, degree_out: int) -> ProductRule:
        return torus_rule(band, degree_out, columns=self.columns(band, degree_out))


class GauntConvolution(OnTorus, SampledConvolution):
    """Convolution on the torus."""


class GauntProduct(OnTorus, SampledProduct):
    """Product on the torus."""

    separable_degree = 6


class GauntPower(OnTorus, SampledPower):
    """Power on the torus."""
