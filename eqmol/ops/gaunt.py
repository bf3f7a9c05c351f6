"""Gaunt family by 2D Fourier series (Luo et al. 2024, arXiv:2401.10216).

Functions on the sphere become trigonometric polynomials on the torus; their product is a convolution of Fourier coefficients,
computed on the smallest sufficient equispaced torus. The discrete Fourier transforms are dense matrices folded with the change of
basis: at the degrees of molecules that is faster than an FFT. An edge's filter is brought to the torus from its harmonics.
"""

import torch
from torch import Tensor

from eqmol.ops.contract import unit
from eqmol.ops.sampled import SampledConvolution, SampledGeometry, SampledPower, SampledProduct, filter_degrees
from eqmol.so3.harmonics import spherical_harmonics
from eqmol.so3.layout import degree_slice
from eqmol.so3.quadrature import Rule
from eqmol.so3.torus import torus_rule


class OnTorus:
    """Equispaced points of the torus."""

    @staticmethod
    def rule(band: int, degree_out: int) -> Rule:
        return torus_rule(band, degree_out)


class GauntConvolution(OnTorus, SampledConvolution):
    """Filters from the harmonics of edges, transformed to the torus degree by degree."""

    filter_value: Tensor
    filter_south: Tensor
    filter_east: Tensor

    def add_filter_tables(self, rule: Rule) -> None:
        self.add_table("filter_value", rule.sample(self.spec.degree_filter).T)
        if self.has_curl:
            south, east = rule.gradient(self.spec.degree_filter)
            self.add_table("filter_south", south.T)
            self.add_table("filter_east", east.T)

    def geometry(self, vectors: Tensor) -> SampledGeometry:
        harmonics = spherical_harmonics(unit(vectors), self.spec.degree_filter)
        plain, curl = filter_degrees(self.spec, 0), filter_degrees(self.spec, 1)
        value = _by_degree(harmonics, self.filter_value, plain)
        if not curl:
            return SampledGeometry(value, None, None)
        return SampledGeometry(
            value, _by_degree(harmonics, self.filter_south, curl), _by_degree(harmonics, self.filter_east, curl)
        )


class GauntProduct(OnTorus, SampledProduct):
    """Product on the torus."""


class GauntPower(OnTorus, SampledPower):
    """Power on the torus."""


def _by_degree(harmonics: Tensor, table: Tensor, chosen: list[int]) -> Tensor:
    """Sum over the orders of each degree: harmonics [E, lm], table [lm, G] -> [E, G, degrees]."""
    return torch.stack([harmonics[:, degree_slice(l)] @ table[degree_slice(l)] for l in chosen], dim=-1)
