"""Wigner matrices of the real spherical harmonics, straight from rotation matrices: Y(R v) = D(R) Y(v), D_1 = R.

Degree l is the projection of degree l - 1 times degree 1 by the 3j symbol. A column of order |m| < l needs only the same
column one degree below and the polar column of R; a column of order ±l only the columns ±(l - 1) and ±1. So columns of
low order are found without the others, and the entries are polynomials in those of R: no angles, no division.

Source: Ivanic and Ruedenberg, J. Phys. Chem. 100, 6342 (1996), whose recurrences these are, written with 3j symbols.
Shapes: B any leading dimensions.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from eqmol.so3.coupling import wigner_3j


class _Step(NamedTuple):
    projection: Tensor  # [3 (2l - 1), 2l + 1]: degree l - 1 times degree 1 onto degree l
    scale: Tensor  # [2k + 1]: of the columns of order -k ... k that come from the polar column, k = min(l - 1, order)
    tips: tuple[tuple[float, ...], ...]  # column ±l: factors of the column products (-,-), (-,+), (+,-), (+,+)


@lru_cache(maxsize=256)
def _step(degree: int, order: int, dtype: torch.dtype, device: torch.device) -> _Step:
    isometry = math.sqrt(2 * degree + 1) * wigner_3j(degree - 1, 1, degree)
    below = degree - 1
    k = min(below, order)
    m = np.arange(-k, k + 1)
    scale = 1 / isometry[below + m, 1, degree + m]
    # |m| = l is reached only from orders ±(l - 1) and ±1; at l = 1 the former is one column
    tips = tuple(tuple(isometry[a, b, c] for a in (0, 2 * below) for b in (0, 2)) for c in (0, 2 * degree))
    return _Step(
        torch.tensor(isometry.reshape(-1, 2 * degree + 1), dtype=dtype, device=device),
        torch.tensor(scale, dtype=dtype, device=device),
        tuple(tuple(float(v) for v in row) for row in tips),
    )


def wigner_matrices(rotations: Tensor, degree: int, order: int | None = None) -> list[Tensor]:
    """Wigner matrices of degrees 0 ... ``degree``.

    Degree 1 is the rotation itself:

    >>> quarter = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    >>> matrices = wigner_matrices(quarter, 2)
    >>> [tuple(matrix.shape) for matrix in matrices], torch.equal(matrices[1], quarter)
    ([(1, 1), (3, 3), (5, 5)], True)

    Args:
        rotations: [B, 3, 3].
        degree: highest degree L.
        order: keep the columns of order |m| <= order only; all by default.

    Returns:
        Per degree l: [B, 2l + 1, 2k + 1] with k = min(l, order): rows of order -l ... l, columns of order -k ... k.
    """
    order = degree if order is None else order
    one = torch.ones_like(rotations[..., :1, :1])
    # transposed, [B, columns, rows]: then a step of the recurrence is one matrix product
    transposed = rotations.transpose(-1, -2)
    matrices = [one]
    for l in range(1, degree + 1):
        table = _step(l, order, rotations.dtype, rotations.device)
        matrices.append(_raise(matrices[-1], transposed, l, order, table))
    return [matrix.transpose(-1, -2) for matrix in matrices]


def _raise(below: Tensor, first: Tensor, degree: int, order: int, table: _Step) -> Tensor:
    """Degree l from degree l - 1 and degree 1, all transposed."""
    if degree == 1:
        return first if order >= 1 else first[..., 1:2, :]
    polar = (table.scale.unsqueeze(-1) * below).unsqueeze(-1) * first[..., 1:2, None, :]
    products = [polar.flatten(-2)]
    if order >= degree:
        tips = _tips(below, first, table)
        products = [tips[..., :1, :], *products, tips[..., 1:, :]]
    return torch.cat(products, dim=-2) @ table.projection


def _tips(below: Tensor, first: Tensor, table: _Step) -> Tensor:
    """Products of columns that project onto the columns of order -l and l, [B, 2, 3 (2l - 1)]."""
    low, high = below[..., 0, :, None], below[..., -1, :, None]
    minus, plus = first[..., 0, None, :], first[..., 2, None, :]
    rows = [
        ((mm * minus + mp * plus) * low + (pm * minus + pp * plus) * high).flatten(-2) for mm, mp, pm, pp in table.tips
    ]
    return torch.stack(rows, dim=-2)
