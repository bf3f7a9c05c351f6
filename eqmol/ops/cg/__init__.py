"""Clebsch-Gordan algorithms: they run every spec and define what the others mean.

A spec of the gaunt family is run with path weights w @ spec.paths.
"""

from eqmol.ops.cg.convolution import CGConvolution
from eqmol.ops.cg.mixing import CGMixing
from eqmol.ops.cg.power import CGPower
from eqmol.ops.cg.product import CGProduct

__all__ = ["CGConvolution", "CGMixing", "CGPower", "CGProduct"]
