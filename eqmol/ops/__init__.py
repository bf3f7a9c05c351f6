"""Tensor products.

A :class:`Spec` says what is computed, :func:`convolution`, :func:`mixing`, :func:`product` and :func:`power` make the algorithm
that computes it:

>>> import torch
>>> spec = Spec("product", "gaunt", "so3", 2, 2, 2)
>>> x, y, weight = torch.randn(10, 9, 8), torch.randn(10, 9, 8), torch.randn(spec.num_weights, 8)
>>> results = [product(spec, backend)(x, y, weight) for backend in ("cg", "gaunt", "gaunt_fft", "grid")]
>>> results[0].shape
torch.Size([10, 9, 8])
>>> all(torch.allclose(result, results[0], atol=1e-4) for result in results)
True
"""

from eqmol.ops.algebra import Algebra
from eqmol.ops.contract import Convolution, HarmonicConvolution, Mixing, Power, Product, RadialWeight
from eqmol.ops.laws import check
from eqmol.ops.registry import convolution, mixing, power, product, register
from eqmol.ops.spec import Spec

__all__ = [
    "Algebra",
    "Convolution",
    "HarmonicConvolution",
    "Mixing",
    "Power",
    "Product",
    "RadialWeight",
    "Spec",
    "check",
    "convolution",
    "mixing",
    "power",
    "product",
    "register",
]
