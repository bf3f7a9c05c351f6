"""Gaunt family on points of the sphere: Gauss-Legendre × uniform, or Lebedev's where one table is used and they are fewer."""

from eqmol.ops.octahedron import OctahedralProduct
from eqmol.ops.sampled import Sampled
from eqmol.ops.sampled_convolution import SampledConvolution
from eqmol.ops.sampled_power import SampledPower
from eqmol.so3.quadrature import Rule, lebedev_rule, sphere_rule


class OnSphere(Sampled):
    """The fewest points that are exact."""

    def rule(self, band: int, degree_out: int) -> Rule:
        rule = sphere_rule(band, degree_out, columns=self.columns(band, degree_out))
        fewer = None if self.is_separable else lebedev_rule(band, degree_out)
        return rule if fewer is None or len(fewer.azimuth) >= len(rule.azimuth) else fewer


class GridConvolution(OnSphere, SampledConvolution):
    """Convolution on the grid."""


class GridProduct(OnSphere, OctahedralProduct):
    """Product on the grid."""

    separable_degree = 8  # up to 7 Lebedev's points are few enough for one table


class GridPower(OnSphere, SampledPower):
    """Power on the grid."""
