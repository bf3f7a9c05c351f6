"""Transforms of the distance that give pairs of elements a common scale before radial functions see it.

Covalent radii are those of Cordero et al. 2008 as in ASE. Shapes: E edges.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from ase.data import covalent_radii
from torch import Tensor, nn


class DistanceTransform(nn.Module, ABC):
    """A function of the distance and the covalent radii of both ends.

    Args:
        elements: atomic numbers.
    """

    radius: Tensor

    def __init__(self, elements: Sequence[int]) -> None:
        super().__init__()
        radius = torch.tensor([float(covalent_radii[z]) for z in elements], dtype=torch.float64)
        self.register_buffer("radius", radius, persistent=False)

    def forward(self, lengths: Tensor, ends: tuple[Tensor, Tensor]) -> Tensor:
        """Edge lengths [E] in Å and elements of both ends -> transformed lengths [E]."""
        bond = self.radius.index_select(0, ends[0]) + self.radius.index_select(0, ends[1])
        return self.transform(lengths, bond.to(lengths.dtype))

    @abstractmethod
    def transform(self, lengths: Tensor, bond: Tensor) -> Tensor:
        """Lengths [E] and sums of covalent radii [E], both in Å."""


class AgnesiTransform(DistanceTransform):
    """1 / (1 + a x^q / (1 + x^(q - p))), x = r/r0, r0 half of the sum of covalent radii: from 1 at contact to 0 far away.

    Source: Witt et al. 2023, doi:10.1063/5.0158783, with the constants of MACE's foundation models.

    Args:
        elements: atomic numbers.
        a, q, p: of the formula.
    """

    def __init__(self, elements: Sequence[int], a: float = 1.0805, q: float = 0.9183, p: float = 4.5791) -> None:
        super().__init__(elements)
        self.a, self.q, self.p = a, q, p

    def transform(self, lengths: Tensor, bond: Tensor) -> Tensor:
        x = 2 * lengths / bond
        return 1 / (1 + self.a * x**self.q / (1 + x ** (self.q - self.p)))


class SoftTransform(DistanceTransform):
    """c + (r - c) (1 + tanh(α' (r - m))) / 2: r beyond the bond, where it is longer than the sum b of covalent radii, and the
    constant c = 3b/4 well within it; m is midway from c to 4b/3, and α' = α / (4b/3 - c).

    Source: Batatia et al. 2025 (mace-torch 0.3.16, ``distance_transform="Soft"``).

    Args:
        elements: atomic numbers.
        alpha: α, steepness.
    """

    def __init__(self, elements: Sequence[int], alpha: float = 4.0) -> None:
        super().__init__(elements)
        self.alpha = alpha

    def transform(self, lengths: Tensor, bond: Tensor) -> Tensor:
        low, high = 3 / 4 * bond, 4 / 3 * bond
        step = torch.tanh(self.alpha / (high - low) * (lengths - (low + high) / 2))
        return low + (lengths - low) * (1 + step) / 2


#: Name -> transform and the names of its constants.
DISTANCE_TRANSFORMS: dict[str, tuple[type[DistanceTransform], tuple[str, ...]]] = {
    "agnesi": (AgnesiTransform, ("a", "q", "p")),
    "soft": (SoftTransform, ("alpha",)),
}
