"""Pointwise functions of features as functions on the sphere.

Equivariant only up to the resolution: what is nonlinear in a function of degree L has all degrees, and those beyond the band
alias onto the ones that are kept. Use :class:`eqmol.nn.Gate` where exact equivariance is wanted.

Shapes: N nodes, lm = (degree + 1)² components, C channels, G points.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from eqmol.nn.activation import SILU_GAIN, silu
from eqmol.nn.parameter_groups import WithMatrices
from eqmol.so3.quadrature import sphere_rule


class SphereGrid(nn.Module):
    """Samples of features, of unit variance where the components have it, and the way back for degrees above 0.

    Args:
        degree_in, degree_out: highest degrees of input and output, ``degree_out`` not above ``degree_in``.
        resolution: R azimuths and ⌈R / 2⌉ Gauss-Legendre colatitudes, exact for functions of degree R - 1; None: 3 · degree_in +
            degree_out + 1, exact for the cube of a function.
    """

    to_samples: Tensor
    projection: Tensor

    def __init__(self, degree_in: int, degree_out: int, resolution: int | None = None) -> None:
        super().__init__()
        assert degree_out <= degree_in
        columns = 3 * degree_in + degree_out + 1 if resolution is None else resolution
        assert columns > degree_in + degree_out, "points would not even tell linear functions apart"
        rule = sphere_rule(columns - 1 - degree_out, degree_out)
        dtype = torch.get_default_dtype()
        # unit variance per component is variance (degree + 1)² at a point
        gain = degree_in + 1
        sample, project = rule.sample(degree_in) / gain, rule.projection[:, 1:].T * gain
        self.register_buffer("to_samples", torch.tensor(sample, dtype=dtype), persistent=False)
        self.register_buffer("projection", torch.tensor(project, dtype=dtype), persistent=False)

    def sample(self, x: Tensor) -> Tensor:
        """[N, lm_in, C] -> [N, G, C]."""
        return self.to_samples @ x

    def with_scalars(self, scalars: Tensor, samples: Tensor) -> Tensor:
        """Scalars [N, C], and the degrees above 0 of samples [N, G, C] -> [N, lm_out, C]."""
        return torch.cat([scalars.unsqueeze(1), self.projection @ samples], dim=1)


class SphereActivation(nn.Module):
    """SiLU of the sampled features, projected back; scalars go through a SiLU of their own.

    Source: Liao et al. 2023, arXiv:2306.12059, section 4.2 (separable S² activation).

    Args:
        degree_in, degree_out, resolution: as of :class:`SphereGrid`.
    """

    def __init__(self, degree_in: int, degree_out: int, resolution: int | None = None) -> None:
        super().__init__()
        self.grid = SphereGrid(degree_in, degree_out, resolution)

    def forward(self, x: Tensor, scalars: Tensor | None = None) -> Tensor:
        """[N, lm_in, C] -> [N, lm_out, C]; ``scalars`` [N, C]: what becomes those of the result, by default those of x."""
        activated = silu(x[:, 0] if scalars is None else scalars) * SILU_GAIN
        if not len(self.grid.projection):
            return activated.unsqueeze(1)
        return self.grid.with_scalars(activated, silu(self.grid.sample(x)) * SILU_GAIN)


class SphereNetwork(WithMatrices):
    """A perceptron of the channels at every point of the sphere: linear, SiLU, linear, SiLU, linear.

    Source: Liao et al. 2023, arXiv:2306.12059, appendix (grid MLP of the feed-forward network).

    Args:
        degree_in, degree_out, resolution: as of :class:`SphereGrid`.
        channels: C.
    """

    matrices: ClassVar = {"layers": 0}

    def __init__(self, degree_in: int, degree_out: int, channels: int, resolution: int | None = None) -> None:
        super().__init__()
        self.grid = SphereGrid(degree_in, degree_out, resolution)
        self.layers = nn.ParameterList(torch.randn(channels, channels) for _ in range(3))

    def forward(self, x: Tensor, scalars: Tensor) -> Tensor:
        """Features [N, lm_in, C], and the scalars [N, C] of the result -> [N, lm_out, C]."""
        first, *others = (weight / math.sqrt(len(weight)) for weight in self.layers)
        samples = self.grid.sample(x) @ first
        for weight in others:
            samples = silu(samples) @ (weight * SILU_GAIN)
        return self.grid.with_scalars(scalars, samples)
