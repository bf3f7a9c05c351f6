"""Edge frames: a rotation that takes the polar axis +y to a direction, smooth everywhere but for an invisible seam.

Two charts, chosen by the sign of y: the minimal rotation from +y, and a half turn about x followed by the minimal
rotation from -y. Both are polynomials in the direction over 1 + |y| >= 1: no angle, no pole, no square root. The charts
differ by a rotation about the edge, so an operation that commutes with those has no seam, in no derivative.
"""

import torch
from torch import Tensor


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
