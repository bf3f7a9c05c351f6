"""Radial weights from a table over intervals of the distance, for models whose weights are constants.

In every interval stands the polynomial of fifth degree that has the values and the first two derivatives of both ends
(Hermite's), so that energies are twice continuously differentiable. Its error falls with h⁶, that of forces with h⁵, h the length
of an interval. It is kept by its coefficients: a difference of values of both ends would cost float32 the digits of the slope.

Shapes: E edges, R intervals (of all pairs of elements), H hidden radial features, W own weights, C channels.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from eqmol.ops.contract import Convolution, RadialWeight
from eqmol.ops.kernels.tabulated import tabulated_convolution


class Places(NamedTuple):
    """Where edges are in a table.

    Attributes:
        row: [E] of their intervals.
        fraction: [E] of the way through the interval.
    """

    row: Tensor
    fraction: Tensor


class RadialTable(NamedTuple):
    """A radial network by its polynomials.

    Attributes:
        hidden: [R, 6, H] coefficients of the powers of the fraction, of hidden features.
        matrix: [H, W, C] from hidden features to weights.
        weights: their product [R, 6, W, C], as :func:`eqmol.ops.kernels.tabulated.packed` returns it; None if none is compiled.
    """

    hidden: Tensor
    matrix: Tensor
    weights: Tensor | None

    def weight(self, places: Places) -> RadialWeight:
        """What the table has for edges."""
        powers = torch.stack([places.fraction**k for k in range(6)], -1)
        return RadialWeight(torch.bmm(powers.unsqueeze(1), self.hidden[places.row]).squeeze(1), self.matrix)


def hermite(value: Tensor, slope: Tensor, curvature: Tensor) -> Tensor:
    """Coefficients [n - 1, 6, ...] of the polynomials between points 0, 1, ..., given values and derivatives there [n, ...]."""
    c0, c1, c2 = value[:-1], slope[:-1], curvature[:-1] / 2
    # what the other end has beyond the parabola of this one
    rest = value[1:] - c0 - c1 - c2
    rest_slope = slope[1:] - c1 - 2 * c2
    rest_curvature = curvature[1:] / 2 - c2
    c3 = 10 * rest - 4 * rest_slope + rest_curvature
    c4 = -15 * rest + 7 * rest_slope - 2 * rest_curvature
    c5 = 6 * rest - 3 * rest_slope + rest_curvature
    return torch.stack([c0, c1, c2, c3, c4, c5], 1)


def convolve(
    op: Convolution,
    x: Tensor,
    geometry: object,
    table: RadialTable,
    places: Places,
    senders: Tensor,
    receivers: Tensor,
    num_receivers: int,
) -> Tensor:
    """As :meth:`eqmol.ops.contract.Convolution.forward`; where compiled code runs, differentiable once."""
    edges = senders, receivers, num_receivers
    if table.weights is None:
        return op(x, geometry, table.weight(places), *edges)
    compiled = tabulated_convolution(op, x, geometry, table.weights, places.row, places.fraction, *edges)
    return op(x, geometry, table.weight(places), *edges) if compiled is None else compiled
