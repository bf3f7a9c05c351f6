"""Gaunt family on a Gauss-Legendre × uniform grid on the sphere."""

from eqmol.ops.sampled import SampledProduct
from eqmol.ops.sampled_convolution import SampledConvolution
from eqmol.ops.sampled_power import SampledPower
from eqmol.so3.quadrature import Rule, sphere_rule


class OnSphere:
    """Gauss-Legendre × uniform points."""

    @staticmethod
    def rule(band: int, degree_out: int) -> Rule:
        return sphere_rule(band, degree_out)


class GridConvolution(OnSphere, SampledConvolution):
    """Convolution on the grid."""


class GridProduct(OnSphere, SampledProduct):
    """Product on the grid."""


class GridPower(OnSphere, SampledPower):
    """Power on the grid."""
