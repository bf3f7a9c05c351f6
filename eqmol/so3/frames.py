"""Edge frames: a rotation that takes the polar axis +y to a direction, smooth everywhere but for an invisible seam.

Two charts, chosen by the sign of y: the minimal rotation from +y, and a half turn about x followed by the minimal
rotation from -y. Both are polynomials in the direction over 1 + |y| >= 1: no angle, no pole, no square root. The charts
differ by a rotation about the edge, so an operation that commutes with those has no seam, in no derivative.

In its own frame an edge has harmonics of order 0 only, and components of order m couple to those of order m and -m.
"""

import numpy as np
import torch
from torch import Tensor

from eqmol.so3.coupling import wigner_3j


def edge_frames(directions: Tensor) -> Tensor:
    """Rotations whose middle column is the direction.

    Args:
        directions: unit vectors [..., 3] as (x, y, z).

    Returns:
        Proper rotations R [..., 3, 3] with R (0, 1, 0) = direction.
    """
    x, y, z = directions.unbind(-1)
    south = y < 0
    # the half turn about x maps the southern hemisphere onto the northern one
    y = torch.where(south, -y, y)
    z = torch.where(south, -z, z)
    scale = 1 / (1 + y)
    xz = -x * z * scale
    top = torch.stack([1 - x * x * scale, x, xz], dim=-1)
    middle = torch.stack([-x, y, -z], dim=-1)
    bottom = torch.stack([xz, z, 1 - z * z * scale], dim=-1)
    turn = torch.where(south, -1.0, 1.0).to(directions.dtype).unsqueeze(-1)
    return torch.stack([top, turn * middle, turn * bottom], dim=-2)


def polar_coupling(l1: int, l2: int, l3: int) -> np.ndarray:
    """The 3j symbol with the harmonics of the polar axis, √(2 l2 + 1) (l1 l2 l3; m 0 ±m), for m = 0 ... min(l1, l3).

    Order m couples to m (cosine) when l1 + l2 + l3 is even and to -m (sine, zero at m = 0) when it is odd. With orders m > 0
    counted twice, for m and -m, the couplings of all l2 of one parity are orthonormal.
    """
    m = np.arange(min(l1, l3) + 1)
    polar = wigner_3j(l1, l2, l3)[:, l2, :] * np.sqrt(2 * l2 + 1)
    order: np.ndarray = polar[l1 - m, l3 + m] if (l1 + l2 + l3) % 2 else polar[l1 + m, l3 + m]
    return order
