"""Gaunt family by 2D Fourier series (Luo et al. 2024, arXiv:2401.10216).

Functions on the sphere become trigonometric polynomials on the torus; their product is a convolution of Fourier coefficients,
computed on the smallest sufficient equispaced torus, or where one table is used on those of its points that functions on the
sphere need. The discrete Fourier transforms are matrices folded with the change of basis, which is faster than the FFTs of
:mod:`eqmol.ops.gaunt_fft` at the degrees of molecules.
"""

from eqmol.ops.octahedron import OctahedralProduct
from eqmol.ops.sampled import Sampled
from eqmol.ops.sampled_convolution import SampledConvolution
from eqmol.ops.sampled_power import SampledPower
from eqmol.so3.quadrature import Rule
from eqmol.so3.torus import sparse_torus_rule, torus_rule


class OnTorus(Sampled):
    """Equispaced points of the torus."""

    def rule(self, band: int, degree_out: int) -> Rule:
        if self.is_separable:
            return torus_rule(band, degree_out, columns=self.columns(band, degree_out))
        return sparse_torus_rule(band, degree_out)


class GauntConvolution(OnTorus, SampledConvolution):
    """Convolution on the torus."""


class GauntProduct(OnTorus, OctahedralProduct):
    """Product on the torus."""

    separable_degree = 8


class GauntPower(OnTorus, SampledPower):
    """Power on the torus."""
