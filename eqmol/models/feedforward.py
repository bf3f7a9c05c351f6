"""Blocks that act on each node alone.

Shapes: N nodes, lm components, C channels, F hidden channels.
"""

import torch
from torch import Tensor, nn

from eqmol.errors import InputError
from eqmol.nn import Gate, Linear, SphereActivation, SphereNetwork
from eqmol.nn.activation import SILU_GAIN, silu
from eqmol.ops import Algebra
from eqmol.so3.layout import dim

FEEDFORWARDS = ("gate", "grid", "product", "s2")


class SelfMix(nn.Module):
    """Product of two differently mixed fields of a node, channel by channel.

    Source: Luo et al. 2024, arXiv:2401.10216 (equivariant feature interaction), for either family of products.

    Args:
        algebra: what the product is.
        degree_in, degree_out: highest degrees of input and output.
        channels, hidden: C and F.
    """

    def __init__(self, algebra: Algebra, degree_in: int, degree_out: int, channels: int, hidden: int) -> None:
        super().__init__()
        self.product = algebra.product(degree_in, degree_out)
        self.up = Linear(degree_in, degree_in, channels, 2 * hidden)
        self.weight = nn.Parameter(torch.randn(self.product.spec.num_weights, hidden))
        self.down = Linear(degree_out, degree_out, hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[N, lm_in, C] -> [N, lm_out, C]."""
        left, right = self.up(x).chunk(2, dim=-1)
        return self.down(self.product(left, right, self.weight))


class ProductFeedForward(nn.Module):
    """Gated fields, and the product of two halves of them: down(a, a ⊗ b) with (a, b) = gate(up(x)).

    Args:
        algebra: what the product is.
        degree_in, degree_out: highest degrees of input and output, ``degree_out`` not above ``degree_in``.
        channels, hidden: C and F.
    """

    def __init__(self, algebra: Algebra, degree_in: int, degree_out: int, channels: int, hidden: int) -> None:
        super().__init__()
        self.product = algebra.product(degree_in, degree_out)
        self.up = Linear(degree_in, degree_in, channels, 2 * hidden)
        self.gate = Gate(degree_in, 2 * hidden)
        self.weight = nn.Parameter(torch.randn(self.product.spec.num_weights, hidden))
        self.down = Linear(degree_out, degree_out, 2 * hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[N, lm_in, C] -> [N, lm_out, C]."""
        left, right = self.gate(self.up(x)).chunk(2, dim=-1)
        product = self.product(left, right, self.weight)
        return self.down(torch.cat([left[:, : product.shape[1]], product], dim=-1))


class PointwiseFeedForward(nn.Module):
    """Linear map, activation, linear map.

    Args:
        sphere: act pointwise on the sphere instead of by gates.
        degree_in, degree_out: highest degrees of input and output, ``degree_out`` not above ``degree_in``.
        channels, hidden: C and F.
        resolution: of the sphere, see :class:`eqmol.nn.sphere.SphereGrid`.
    """

    def __init__(
        self, sphere: bool, degree_in: int, degree_out: int, channels: int, hidden: int, resolution: int | None = None
    ) -> None:
        super().__init__()
        # gates pass no degree on to another
        degree = degree_in if sphere else degree_out
        self.components = dim(degree)
        self.up = Linear(degree, degree, channels, hidden)
        self.activation = SphereActivation(degree, degree_out, resolution) if sphere else Gate(degree, hidden)
        self.down = Linear(degree_out, degree_out, hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[N, lm_in, C] -> [N, lm_out, C]."""
        return self.down(self.activation(self.up(x[:, : self.components])))


class GridFeedForward(nn.Module):
    """Linear map, perceptron at every point of the sphere, linear map; scalars go their own way.

    Source: Liao et al. 2023, arXiv:2306.12059, appendix (feed-forward network with grid MLP).

    Args:
        degree_in, degree_out: highest degrees of input and output, ``degree_out`` not above ``degree_in``.
        channels, hidden: C and F.
        resolution: see :class:`eqmol.nn.sphere.SphereGrid`.
    """

    def __init__(self, degree_in: int, degree_out: int, channels: int, hidden: int, resolution: int | None) -> None:
        super().__init__()
        self.up = Linear(degree_in, degree_in, channels, hidden)
        self.scalars = Linear(0, 0, channels, hidden)
        self.network = SphereNetwork(degree_in, degree_out, hidden, resolution)
        self.down = Linear(degree_out, degree_out, hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[N, lm_in, C] -> [N, lm_out, C]."""
        scalars = silu(self.scalars(x).squeeze(1)) * SILU_GAIN
        return self.down(self.network(self.up(x), scalars))


def feed_forward(
    kind: str,
    algebra: Algebra,
    degree_in: int,
    degree_out: int,
    channels: int,
    hidden: int,
    resolution: int | None = None,
) -> nn.Module:
    """The feed-forward block of a name: ``gate``, ``grid``, ``product`` or ``s2``.

    Raises:
        InputError: another name.
    """
    if kind == "product":
        return ProductFeedForward(algebra, degree_in, degree_out, channels, hidden)
    if kind in ("gate", "s2"):
        return PointwiseFeedForward(kind == "s2", degree_in, degree_out, channels, hidden, resolution)
    if kind == "grid":
        return GridFeedForward(degree_in, degree_out, channels, hidden, resolution)
    raise InputError(f"feedforward={kind!r} is unknown; choose from {', '.join(FEEDFORWARDS)}")
