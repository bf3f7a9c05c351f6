"""Equivariant normalisation of node features.

Shapes: N nodes, lm = (degree + 1)² components, C channels.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from eqmol.errors import InputError
from eqmol.so3.layout import degrees

NormKind = Literal["rms", "layer"]
#: Added to mean squares. Large on purpose: features that vanish with the last neighbour are amplified by at most 1/√ε, so
#: the energy does not become steep where they vanish.
EPSILON = 0.1


class Norm(nn.Module):
    """Divide features by their root mean square; a factor per degree and channel follows.

    Every degree counts the same in the mean, whatever its number of components.

    - ``rms``: one mean over all degrees and channels.
    - ``layer``: scalars are centred over the channels, divided by their own deviation and shifted by a bias; the other
      degrees share one mean of their own, so neither drowns the other. Source: Liao et al. 2023, arXiv:2306.12059,
      section 4.3 (separable layer normalisation).

    Args:
        degree: highest degree of the features.
        channels: C.
        kind: ``rms`` or ``layer``.

    Raises:
        InputError: another kind.
    """

    degree: Tensor

    def __init__(self, degree: int, channels: int, kind: NormKind) -> None:
        super().__init__()
        if kind not in get_args(NormKind):
            raise InputError(f"norm={kind!r} is unknown; choose from {', '.join(get_args(NormKind))}")
        self.centred = kind == "layer"
        self.weight = nn.Parameter(torch.ones(degree + 1, channels))
        self.bias = nn.Parameter(torch.zeros(channels)) if self.centred else None
        self.register_buffer("degree", torch.as_tensor(degrees(degree)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, lm, C] -> [N, lm, C]."""
        weight = self.weight.index_select(0, self.degree)
        if self.bias is None:
            return x * self._inverse_root(x) * weight
        scalars = x[:, :1] - x[:, :1].mean(-1, keepdim=True)
        scalars = scalars * torch.rsqrt(scalars.square().mean(-1, keepdim=True) + EPSILON) * weight[:1] + self.bias
        if x.shape[1] == 1:
            return scalars
        rest = x[:, 1:]
        return torch.cat([scalars, rest * self._inverse_root(rest) * weight[1:]], dim=1)

    def _inverse_root(self, x: Tensor) -> Tensor:
        """1 / √(mean square, the same weight for every degree, + ε) of the highest components of x, [N, 1, 1]."""
        degree = self.degree[len(self.degree) - x.shape[1] :]
        num_degrees = len(self.weight) - (x.shape[1] < len(self.degree))
        mean = (x.square().mean(-1) / (2 * degree + 1)).sum(-1) / num_degrees
        return torch.rsqrt(mean + EPSILON)[:, None, None]
