"""The door to e3nn: features of irreps in and out, and tensor products in the place of e3nn's own.

Irreps may be given as strings or as ``e3nn.o3.Irreps``; e3nn itself is loaded on first use. Features are e3nn's: flat,
[..., irreps.dim], one block of ``mul × (2 l + 1)`` after another, multiplicity before component. Components have e3nn's order,
which is that of :mod:`eqmol.so3.layout`.
"""

from eqmol.interop.convolution import Convolution, GauntConvolution
from eqmol.interop.irreps import Layout, uvu_paths
from eqmol.interop.mixing import UVWWeights
from eqmol.interop.product import TensorProduct, replace_products

__all__ = ["Convolution", "GauntConvolution", "Layout", "TensorProduct", "UVWWeights", "replace_products", "uvu_paths"]
