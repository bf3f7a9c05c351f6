"""Convolutions from or to scalars, which need no algorithm: w_l x Y_l, and the sum of w_l x_l · Y_l over degrees l.

Each degree has one path, (0, l, l) or (l, l, 0), in either family and parity, so every backend uses these.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from eqmol.ops import kernels
from eqmol.ops.contract import HarmonicConvolution, RadialWeight
from eqmol.ops.edges import Nodes, sum_messages
from eqmol.ops.spec import Spec
from eqmol.so3.layout import degrees, dim


class _OnePathPerDegree(HarmonicConvolution):
    """Degrees 0 ... reach; the highest of the filter that couples."""

    has_kernels = True
    mask: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        assert min(spec.degree_in, spec.degree_out) == 0
        self.reach = min(spec.degree_filter, max(spec.degree_in, spec.degree_out))
        self.add_table("mask", 1.0 * (np.arange(self.reach + 1)[:, None] == degrees(self.reach)))

    @property
    def degree_geometry(self) -> int:
        return self.reach

    def forward(
        self, x: Tensor, geometry: Tensor, weight: RadialWeight, senders: Tensor, receivers: Tensor, num_receivers: int
    ) -> Tensor:
        compiled = kernels.convolution(self, x, geometry, weight, senders, receivers, num_receivers)
        if compiled is not None:
            return compiled
        return self._sum(x, geometry, weight, Nodes(senders, receivers, num_receivers))

    def message(self, x: Tensor, geometry: Tensor, weight: RadialWeight) -> Tensor:
        return self._sum(x, geometry, weight)

    @abstractmethod
    def _sum(self, x: Tensor, geometry: Tensor, weight: RadialWeight, nodes: Nodes | None = None) -> Tensor: ...


class ScalarConvolution(_OnePathPerDegree):
    """Any convolution with ``degree_in`` 0."""

    def _sum(self, x: Tensor, geometry: Tensor, weight: RadialWeight, nodes: Nodes | None = None) -> Tensor:
        total = sum_messages(_Zonal(self.mask, 1), dim(self.reach), x, [geometry], weight, nodes)
        return pad(total, (0, 0, 0, dim(self.spec.degree_out) - dim(self.reach)))  # degrees that no path reaches


class InvariantConvolution(_OnePathPerDegree):
    """Any convolution with ``degree_out`` 0."""

    scale: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        # the 3j symbol (l, l, 0) is the unit matrix over √(2l + 1)
        path = spec.path_normalization / np.sqrt(2 * np.arange(self.reach + 1) + 1)
        self.add_table("scale", spec.paths * path)

    def _sum(self, x: Tensor, geometry: Tensor, weight: RadialWeight, nodes: Nodes | None = None) -> Tensor:
        x = x[:, : dim(self.reach)]
        return sum_messages(_Zonal(self.mask, 3), 1, x, [geometry], weight.rebased(self.scale), nodes)


class _Zonal:
    """Σ_l w_l s v_l · Y_l in weights [e, L + 1, C], scalars s [e, 1, C], harmonics [e, lm] and features v [e, lm, C].

    The scalars are the features of the sender (slot 1) or the cotangent of the result (slot 3); v is the other.
    """

    def __init__(self, mask: Tensor, scalar_slot: int) -> None:
        self.mask = mask
        self.scalar_slot = scalar_slot

    def bind(self, arguments: Sequence[Tensor]) -> Callable[[Sequence[int]], list[Tensor]]:
        return lambda slots: [self._derivative(slot, arguments) for slot in slots]

    def _derivative(self, slot: int, arguments: Sequence[Tensor]) -> Tensor:
        weight, harmonics = arguments[0], arguments[2]
        scalar, vector = arguments[self.scalar_slot], arguments[4 - self.scalar_slot]
        if slot == 2:
            return (torch.bmm(weight * scalar, vector.mT) * self.mask).sum(1)
        by_degree = harmonics.unsqueeze(1) * self.mask
        if slot == 4 - self.scalar_slot:
            return torch.bmm(by_degree.mT, weight * scalar)
        projected = torch.bmm(by_degree, vector)
        return projected * scalar if slot == 0 else (projected * weight).sum(1, keepdim=True)
