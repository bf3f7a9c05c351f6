"""Pointwise activation of functions on the sphere.

Shapes: N nodes, lm = (degree + 1)² components, C channels, G points.
"""

import torch
from torch import Tensor, nn

from eqmol.nn.activation import SILU_GAIN, silu
from eqmol.so3.quadrature import sphere_rule


class SphereActivation(nn.Module):
    """SiLU of the sampled features, projected back; scalars go through a SiLU of their own.

    Equivariant only up to the resolution: SiLU of a function of degree L has all degrees, and those beyond the band alias
    onto the ones that are kept. Use :class:`eqmol.nn.Gate` where exact equivariance is wanted.

    Source: Liao et al. 2023, arXiv:2306.12059, section 4.2 (separable S² activation).

    Args:
        degree_in, degree_out: highest degrees of input and output, ``degree_out`` not above ``degree_in``.
        band: the quadrature is exact for functions up to this degree; None is three times ``degree_in``.
    """

    to_samples: Tensor
    projection: Tensor

    def __init__(self, degree_in: int, degree_out: int, band: int | None = None) -> None:
        super().__init__()
        assert degree_out <= degree_in
        rule = sphere_rule(3 * degree_in if band is None else band, degree_out)
        dtype = torch.get_default_dtype()
        # unit variance per component is variance (degree + 1)² at a point
        gain = degree_in + 1
        sample, project = rule.sample(degree_in) / gain, rule.projection[:, 1:].T * (gain * SILU_GAIN)
        self.register_buffer("to_samples", torch.tensor(sample, dtype=dtype), persistent=False)
        self.register_buffer("projection", torch.tensor(project, dtype=dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, lm_in, C] -> [N, lm_out, C]."""
        scalars = silu(x[:, :1]) * SILU_GAIN
        if not len(self.projection):
            return scalars
        return torch.cat([scalars, self.projection @ silu(self.to_samples @ x)], dim=1)
