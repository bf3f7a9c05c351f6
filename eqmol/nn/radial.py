"""Radial basis and the network that turns it into the weights of a convolution.

Shapes: E edges, B basis functions, H hidden features, W weights per channel, C channels.
"""

import math
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from eqmol.errors import InputError
from eqmol.nn.activation import SILU_GAIN, silu
from eqmol.nn.cutoff import polynomial_envelope
from eqmol.nn.distance import DistanceTransform
from eqmol.nn.parameter_groups import WithMatrices


class BesselBasis(nn.Module):
    """Spherical Bessel functions of order zero inside a smooth envelope.

    B_n(r) = √(2/3) c_n sin(n π x) / x · u(x), x = r/r_c, n = 1 ... B, with the envelope u. But for the envelope the functions
    are orthogonal over the ball of radius r_c, with mean squares c_n² whose mean is one.

    With a decay p, c_n falls as n^-p: functions that change fast are learnt later, and bonds longer or shorter than those of the
    training set are predicted better. With p = 1 the slopes of all functions have about the same size.

    Source: Gasteiger et al. 2020, arXiv:2003.03123, equation 7, in another normalisation.

    Args:
        cutoff: r_c, Å.
        size: B.
        envelope_exponent: of :func:`polynomial_envelope`.
        transform: what the Bessel functions, not the envelope, see in place of the distance.
        decay: p.
    """

    order: Tensor

    def __init__(
        self,
        cutoff: float,
        size: int,
        envelope_exponent: int = 6,
        transform: DistanceTransform | None = None,
        decay: float = 0.0,
    ) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.envelope_exponent = envelope_exponent
        self.transform = transform
        self.decay = decay
        self.gain = math.sqrt(2 / 3 * size / sum(n ** (-2 * decay) for n in range(1, size + 1)))
        self.register_buffer("order", torch.tensor(range(1, size + 1)), persistent=False)

    def forward(self, lengths: Tensor, ends: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Edge lengths [E] in Å, all positive, and, for a transform, elements of both ends [E] -> [E, B]."""
        x = lengths / self.cutoff
        envelope = polynomial_envelope(x, self.envelope_exponent)
        if self.transform is not None:
            assert ends is not None
            x = self.transform(lengths, ends) / self.cutoff
        waves = torch.sin((math.pi * x).unsqueeze(-1) * self.order) * (envelope / x).unsqueeze(-1)
        return waves * self.amplitudes(lengths.dtype)

    def amplitudes(self, dtype: torch.dtype) -> Tensor:
        """√(2/3) c_n, [B]."""
        return self.order.to(dtype) ** -self.decay * self.gain


class GaussianBasis(nn.Module):
    """Gaussians at equispaced distances from 0 to the cutoff. They do not end at the cutoff.

    B_n(r) = c exp(-(r - r_n)² / (2 σ²)), with c such that their mean square is about one. Their curvature is at most c/σ²: narrow
    ones let energies bend within short distances.

    Source: Schütt et al. 2017, arXiv:1706.08566 (SchNet); the width by default is that of Liao et al. 2023, arXiv:2306.12059.

    Args:
        cutoff: Å.
        size: B, at least 2.
        width: σ, Å, at least half of the spacing; None: twice the spacing, whatever B is.

    Raises:
        InputError: a smaller width, which would leave gaps.
    """

    centers: Tensor

    def __init__(self, cutoff: float, size: int, width: float | None = None) -> None:
        super().__init__()
        spacing = cutoff / (size - 1)
        self.width = 2 * spacing if width is None else width
        if self.width < spacing / 2:
            raise InputError(
                f"basis_width={width} leaves gaps between {size} Gaussians up to {cutoff} Å; give at least {spacing / 2:.3g} Å, "
                "or a larger num_bessel"
            )
        self.gain = math.sqrt(size * spacing / (self.width * math.sqrt(math.pi)))
        self.register_buffer("centers", torch.arange(size) * spacing, persistent=False)

    def forward(self, lengths: Tensor) -> Tensor:
        """Edge lengths [E] in Å -> [E, B]."""
        distance = (lengths.unsqueeze(-1) - self.centers) / self.width
        return self.gain * torch.exp(-distance.square() / 2)


class RadialNetwork(WithMatrices):
    """Multilayer perceptron without biases: zero input gives zero output, so weights vanish at the cutoff.

    The last linear map is returned, not applied: a convolution may fold its own change of basis into it. Parameters are
    standard normal and scaled by 1/√fan-in when used.

    Args:
        basis: B.
        hidden: widths of the hidden layers, the last is H.
        num_weights, channels: W and C of the convolution.
        num_elements: of elements that scale the first hidden layer, those of both ends; 0: the length alone counts.
    """

    matrices: ClassVar = {"layers": 0, "matrix": 0}

    def __init__(self, basis: int, hidden: list[int], num_weights: int, channels: int, num_elements: int = 0) -> None:
        super().__init__()
        sizes = [basis, *hidden]
        self.layers = nn.ParameterList(torch.randn(a, b) for a, b in pairwise(sizes))
        self.matrix = nn.Parameter(torch.randn(sizes[-1], num_weights, channels))
        self.ends = nn.Parameter(torch.randn(2, num_elements, sizes[1])) if num_elements else None

    def forward(self, basis: Tensor, ends: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Basis [E, B] and elements of both ends [E] -> hidden [E, H] and matrix [H, W, C]; the weights of an edge are
        their product.
        """
        hidden, gain = basis, 1.0
        for number, weight in enumerate(self.layers):
            hidden = silu(hidden @ (weight * (gain / math.sqrt(weight.shape[0]))))
            gain = SILU_GAIN
            if number == 0 and self.ends is not None:
                assert ends is not None
                first, second = (table.index_select(0, end) for table, end in zip(self.ends, ends, strict=True))
                hidden = hidden * ((1 + first + second) * math.sqrt(1 / 3))
        return hidden, self.matrix * (gain / math.sqrt(self.matrix.shape[0]))


class PairNetwork(WithMatrices):
    """Multilayer perceptron of the radial basis and the elements of both ends. It does not vanish at the cutoff.

    The elements shift the first hidden layer: a table per end stands for an embedding and its linear map. With a width of their
    own, embeddings stand beside the basis instead.

    Args:
        basis: B.
        hidden: widths of the hidden layers, the last is H.
        num_elements: number of elements.
        width: of embeddings beside the basis; None: tables.
    """

    matrices: ClassVar = {"first": 0, "layers": 0}

    def __init__(self, basis: int, hidden: list[int], num_elements: int, width: int | None = None) -> None:
        super().__init__()
        self.is_beside = width is not None
        inputs, columns = (basis, hidden[0]) if width is None else (basis + 2 * width, width)
        self.first = nn.Parameter(torch.randn(inputs, hidden[0]))
        self.sender = nn.Parameter(torch.randn(num_elements, columns))
        self.receiver = nn.Parameter(torch.randn(num_elements, columns))
        self.layers = nn.ParameterList(torch.randn(a, b) for a, b in pairwise(hidden))

    def forward(self, basis: Tensor, sender_species: Tensor, receiver_species: Tensor) -> Tensor:
        """Basis [E, B] and elements of both ends [E] -> hidden features with unit second moment [E, H]."""
        pair = self.sender.index_select(0, sender_species), self.receiver.index_select(0, receiver_species)
        first = self.first / math.sqrt(len(self.first))
        if self.is_beside:
            hidden = torch.cat([basis, *pair], dim=-1) @ first
        else:
            hidden = (basis @ first + (pair[0] + pair[1])) / math.sqrt(3)
        hidden = silu(hidden) * SILU_GAIN
        for weight in self.layers:
            hidden = silu(hidden @ (weight / math.sqrt(len(weight)))) * SILU_GAIN
        return hidden


class RadialMatrix(WithMatrices):
    """The linear map from hidden features to the weights of a convolution, for :class:`eqmol.ops.contract.RadialWeight`."""

    matrices: ClassVar = {"weight": 0}

    def __init__(self, hidden: int, num_weights: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(hidden, num_weights, channels))

    def forward(self) -> Tensor:
        """[H, W, C]."""
        return self.weight / math.sqrt(len(self.weight))
