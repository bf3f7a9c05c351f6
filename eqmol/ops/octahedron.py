"""Products of degree 1 on the corners of an octahedron, which need no tables."""

from collections.abc import Sequence

import torch
from torch import Tensor

from eqmol.ops.multilinear import Form
from eqmol.ops.sampled import SampledProduct, write_slope
from eqmol.ops.spec import Spec
from eqmol.ops.transforms import chunks
from eqmol.so3.layout import degrees


class OctahedralProduct(SampledProduct):
    """Product on samples; at degree 1 on an octahedron, whatever the rule."""

    scale: Tensor

    def __init__(self, spec: Spec, always_separable: bool = False) -> None:
        super().__init__(spec, always_separable)
        self.is_octahedral = (spec.parity, spec.degree_in, spec.degree_filter, spec.degree_out) == ("o3", 1, 1, 1)
        self.add_table("scale", spec.gaunt_scale[degrees(spec.degree_out)][:, None])

    def _form(self) -> Form:
        return _Octahedral(self.scale) if self.is_octahedral else super()._form()


class _Octahedral:
    """The form of :class:`eqmol.ops.sampled.WeightedProduct` at degree 1, where it needs no tables.

    The octahedron is exact to degree 3, and at its points a function is x_0 ± √3 x_i. Sums and differences over opposite points
    turn the product of samples into products of components, the same for every derivative: the form is symmetric in x, w y and v.
    """

    def __init__(self, scale: Tensor) -> None:
        self.scale = scale

    def partials(self, slots: Sequence[int], arguments: Sequence[Tensor | None]) -> list[Tensor]:
        x, y, w, v = arguments
        assert x is not None
        assert y is not None
        assert w is not None
        results = [torch.zeros_like(w) if slot == 2 else torch.empty_like(x) for slot in slots]
        for rows in chunks(len(x), 2 * x.shape[1] * x.shape[2], x):
            a, factor, own = x[rows], y[rows], w[rows] if len(w) > 1 else w
            b = factor * own
            c = a if v is None else v[rows] * self.scale
            slope = _multiply(a, c, torch.empty_like(a)) if {1, 2} & set(slots) else a
            for slot, result in zip(slots, results, strict=True):
                if slot == 0:
                    _multiply(b, c, result[rows])
                elif slot in (1, 2):
                    write_slope(slope, own if slot == 1 else factor, result, rows, slot == 2 and len(w) == 1)
                else:
                    _multiply(a, b, result[rows]).mul_(self.scale)
        return results


def _multiply(x: Tensor, y: Tensor, out: Tensor) -> Tensor:
    """Write the product up to degree 1 of functions of degree 1, [n, 4, C]."""
    torch.mul(x, y[:, :1], out=out)
    out[:, 1:].addcmul_(x[:, :1], y[:, 1:])
    for i in (1, 2, 3):
        out[:, 0].addcmul_(x[:, i], y[:, i])
    return out
