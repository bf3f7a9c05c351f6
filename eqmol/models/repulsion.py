"""Repulsion of nuclei at short distances."""

import torch
from ase.data import covalent_radii
from ase.units import Bohr, Hartree
from torch import Tensor

from eqmol.models.reference import DoubleBuffers
from eqmol.nn import polynomial_envelope

#: Universal screening function φ(x) = Σ c exp(-d x), x = r/a, a = 0.8854 Bohr / (Z1^0.23 + Z2^0.23).
#: Source: Ziegler, Biersack, Littmark, The Stopping and Range of Ions in Solids (Pergamon, 1985), volume 1.
SCREENING = ((0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162))
SCREENING_LENGTH = 0.8854 * Bohr
SCREENING_POWER = 0.23
#: Coulomb's constant times the elementary charge squared, eV Å.
COULOMB = Hartree * Bohr


class ZBLRepulsion(DoubleBuffers):
    """Screened Coulomb repulsion Z1 Z2 e²/r φ(r/a), taken smoothly to zero at the sum of covalent radii.

    Half of each pair's energy belongs to each atom. Atoms without neighbours have exactly zero.

    Args:
        elements: atomic numbers.
        cutoff: Å, cutoff of the edges; pairs whose covalent radii reach further end there.
        envelope_exponent: exponent of :func:`eqmol.nn.polynomial_envelope`.
    """

    charge: Tensor
    screening: Tensor
    radius: Tensor

    def __init__(self, elements: list[int], cutoff: float, envelope_exponent: int = 6) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.envelope_exponent = envelope_exponent
        charge = torch.tensor(elements, dtype=torch.float64)
        radius = torch.tensor([float(covalent_radii[z]) for z in elements], dtype=torch.float64)
        self.register_buffer("charge", charge, persistent=False)
        self.register_buffer("screening", charge**SCREENING_POWER, persistent=False)
        self.register_buffer("radius", radius, persistent=False)

    def forward(self, lengths: Tensor, species: Tensor, senders: Tensor, receivers: Tensor) -> Tensor:
        """Edge lengths [E] float64 in Å, element index [N], ends [E] -> energies [N], float64 eV."""
        a, b = species.index_select(0, senders), species.index_select(0, receivers)
        reach = (self.radius[a] + self.radius[b]).clamp(max=self.cutoff)
        near = torch.nonzero(lengths < reach).squeeze(-1)
        a, b, r = a[near], b[near], lengths[near]
        x = r * (self.screening[a] + self.screening[b]) / SCREENING_LENGTH
        phi = torch.stack([c * torch.exp(-d * x) for c, d in SCREENING]).sum(0)
        phi = phi * polynomial_envelope(r / reach[near], self.envelope_exponent)
        pair = COULOMB * self.charge[a] * self.charge[b] / r * phi
        return lengths.new_zeros(len(species)).index_add(0, receivers[near], pair / 2)
