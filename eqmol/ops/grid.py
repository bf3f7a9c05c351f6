"""Gaunt family on a Gauss-Legendre × uniform grid on the sphere.

The filter of an edge n at a point g is Σ_l w_l (2l + 1) P_l(n·g), its gradient Σ_l w_l (2l + 1) P_l'(n·g) n; both come from
recurrences in the cosine n·g.
"""

import numpy as np
import torch
from torch import Tensor

from eqmol.ops.contract import unit
from eqmol.ops.sampled import SampledConvolution, SampledGeometry, SampledPower, SampledProduct, filter_degrees
from eqmol.so3.quadrature import Rule, sphere_rule


class OnSphere:
    """Gauss-Legendre × uniform points."""

    @staticmethod
    def rule(band: int, degree_out: int) -> Rule:
        return sphere_rule(band, degree_out)


class GridConvolution(OnSphere, SampledConvolution):
    """Zonal filters from the cosines between edges and grid points."""

    points: Tensor
    south: Tensor
    east: Tensor
    curl_scale: Tensor

    def add_filter_tables(self, rule: Rule) -> None:
        self.add_table("points", rule.points)
        south, east = rule.tangents
        self.add_table("south", south)
        self.add_table("east", east)
        degree = np.array(filter_degrees(self.spec, 1), dtype=float)
        # r·(∇f × ∇g) divides both gradients by √(l(l+1))
        self.add_table("curl_scale", (2 * degree + 1) / np.sqrt(np.maximum(degree * (degree + 1), 1)))

    def geometry(self, vectors: Tensor) -> SampledGeometry:
        direction = unit(vectors)
        cosine = direction @ self.points.T
        plain, curl = filter_degrees(self.spec, 0), filter_degrees(self.spec, 1)
        legendre, slope = _legendre(cosine, self.spec.degree_filter)
        value = torch.stack([(2 * l + 1) * legendre[l] for l in plain], dim=-1)
        if not curl:
            return SampledGeometry(value, None, None)
        derivative = torch.stack([slope[l] for l in curl], dim=-1) * self.curl_scale
        south = derivative * (direction @ self.south.T).unsqueeze(-1)
        east = derivative * (direction @ self.east.T).unsqueeze(-1)
        return SampledGeometry(value, south, east)


class GridProduct(OnSphere, SampledProduct):
    """Product on the grid."""


class GridPower(OnSphere, SampledPower):
    """Power on the grid."""


def _legendre(t: Tensor, degree: int) -> tuple[list[Tensor], list[Tensor]]:
    """P_l(t) and P_l'(t) for l = 0 ... degree, from P_l' = t P_{l-1}' + l P_{l-1}."""
    value, slope = [torch.ones_like(t)], [torch.zeros_like(t)]
    for l in range(1, degree + 1):
        slope.append(t * slope[-1] + l * value[-1])
        value.append(t if l == 1 else ((2 * l - 1) * t * value[-1] - (l - 1) * value[-2]) / l)
    return value, slope
