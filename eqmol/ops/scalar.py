"""Convolution of scalar features: message = w_l x Y_l, which needs no algorithm.

Each degree has one path (0, l, l), with constant one in either family and parity, so every backend uses this.
"""

from collections.abc import Hashable

from torch import Tensor
from torch.nn.functional import pad

from eqmol.ops.contract import Convolution, RadialWeight, sum_edges, unit
from eqmol.ops.spec import Spec
from eqmol.so3.harmonics import spherical_harmonics
from eqmol.so3.layout import degrees, dim


class ScalarConvolution(Convolution):
    """Any convolution with ``degree_in`` 0."""

    degree: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        assert spec.degree_in == 0
        self.reach = min(spec.degree_filter, spec.degree_out)
        self.add_table("degree", degrees(self.reach))

    @property
    def geometry_key(self) -> Hashable:
        return type(self), self.reach

    def geometry(self, vectors: Tensor) -> Tensor:
        """Harmonics [E, lm]."""
        return spherical_harmonics(unit(vectors), self.reach)

    def forward(
        self,
        x: Tensor,
        geometry: Tensor,
        weight: RadialWeight,
        senders: Tensor,
        receivers: Tensor,
        num_receivers: int,
    ) -> Tensor:
        weighted = weight.dense() * x[:, 0].index_select(0, senders).unsqueeze(1)
        messages = geometry.unsqueeze(-1) * weighted.index_select(1, self.degree)
        missing = dim(self.spec.degree_out) - dim(self.reach)
        total = sum_edges(messages, receivers, num_receivers)
        return pad(total, (0, 0, 0, missing))  # degrees that no path reaches
