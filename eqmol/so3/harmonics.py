"""Real spherical harmonics of unit vectors, any degree, as polynomials: smooth at the poles in every derivative.

Y_lm = N_lm Q_l^|m|(y) · Re or Im of (z + i x)^|m|, with Q_l^m the m-th derivative of the Legendre polynomial P_l,
from the recurrence (l - m) Q_l^m = (2l - 1) y Q_{l-1}^m - (l + m - 1) Q_{l-2}^m (stable upwards in l).

Shapes: E vectors, L degree.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from eqmol.so3.layout import degrees, dim, orders


class _Recurrence(NamedTuple):
    rise: tuple[Tensor, ...]  # factor of y · q_{l-1}, per l: [l]
    fall: tuple[Tensor, ...]  # factor of q_{l-2}, per l: [l - 1]
    top: tuple[float, ...]  # q_l^l
    legendre_index: Tensor  # component -> (l, |m|) among the stacked q
    azimuth_index: Tensor  # component -> L + m among the stacked azimuth factors


@lru_cache(maxsize=64)
def _recurrence(degree: int, dtype: torch.dtype, device: torch.device) -> _Recurrence:
    def norm(l: int, m: int) -> float:
        return math.sqrt((2 * l + 1) * (2 if m else 1) * math.factorial(l - m) / math.factorial(l + m))

    def vector(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)

    rise, fall, top = [vector([])], [vector([])], [1.0]
    for l in range(1, degree + 1):
        rise.append(vector([norm(l, m) / norm(l - 1, m) * (2 * l - 1) / (l - m) for m in range(l)]))
        fall.append(vector([norm(l, m) / norm(l - 2, m) * (l + m - 1) / (l - m) for m in range(l - 1)]))
        top.append(norm(l, l) * math.prod(range(1, 2 * l, 2)))
    degree_of, m = degrees(degree), orders(degree)
    return _Recurrence(
        tuple(rise),
        tuple(fall),
        tuple(top),
        torch.tensor(degree_of * (degree_of + 1) // 2 + abs(m), device=device),
        torch.tensor(degree + m, device=device),
    )


def spherical_harmonics(directions: Tensor, degree: int) -> Tensor:
    """Component-normalised real spherical harmonics of degrees 0 ... ``degree``.

    Degree 1 is √3 (x, y, z):

    >>> spherical_harmonics(torch.tensor([0.0, 0.6, 0.8]), 1)
    tensor([1.0000, 0.0000, 1.0392, 1.3856])

    Args:
        directions: unit vectors [..., 3].
        degree: highest degree L.

    Returns:
        [..., (L + 1)²] in the order of :mod:`eqmol.so3.layout`.
    """
    table = _recurrence(degree, directions.dtype, directions.device)
    x, y, z = directions.unsqueeze(-1).unbind(-2)
    one = torch.ones_like(y)
    if degree == 0:
        return one
    rows = [one]
    for l in range(1, degree + 1):
        row = table.rise[l] * y * rows[-1]
        if l > 1:
            row = row - torch.nn.functional.pad(table.fall[l] * rows[-2], (0, 1))
        rows.append(torch.cat([row, table.top[l] * one], dim=-1))
    cosine, sine = [one], [torch.zeros_like(one)]
    for _ in range(degree):
        c, s = cosine[-1], sine[-1]
        cosine.append(z * c - x * s)
        sine.append(z * s + x * c)
    azimuth = torch.cat([*reversed(sine[1:]), *cosine], dim=-1)
    legendre = torch.cat(rows, dim=-1)
    assert table.legendre_index.shape[0] == dim(degree)
    return legendre.index_select(-1, table.legendre_index) * azimuth.index_select(-1, table.azimuth_index)
