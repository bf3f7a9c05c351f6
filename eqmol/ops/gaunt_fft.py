"""Gaunt family by fast Fourier transforms, as published (Luo et al. 2024, arXiv:2401.10216).

A feature becomes a 2D Fourier series (see :func:`eqmol.so3.torus.fourier_series`), order by order; series are multiplied by
convolving their coefficients, which is a product of samples on the torus between two FFTs; and the result is integrated against
the harmonics, order by order. O(L³) for the changes of basis, O(L² log L) for the FFTs. Filters of convolutions are sparse in the
frame of the edge (see :mod:`eqmol.ops.zonal`).
"""

from eqmol.ops.sampled import Sampled, SampledProduct
from eqmol.ops.sampled_power import SampledPower
from eqmol.ops.transforms import Fourier, Transform
from eqmol.ops.zonal import ZonalConvolution
from eqmol.so3.quadrature import Factors, ProductRule, Rule
from eqmol.so3.torus import full_torus_rule


class ByFFT(Sampled):
    """The whole torus."""

    def rule(self, band: int, degree_out: int) -> ProductRule:
        return full_torus_rule(band, degree_out)

    def transform(self, factors: Factors, rule: Rule) -> Transform:
        return Fourier(factors, len(rule.columns))


class GauntFFTConvolution(ZonalConvolution):
    """Convolution by FFTs along θ, in the frame of the edge."""


class GauntFFTProduct(ByFFT, SampledProduct):
    """Product by FFT."""


class GauntFFTPower(ByFFT, SampledPower):
    """Power by FFT."""
