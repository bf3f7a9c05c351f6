"""Repulsion of nuclei at short distances."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from ase.data import covalent_radii
from ase.units import Bohr, Hartree
from torch import Tensor

from eqmol.errors import InputError, short
from eqmol.models.arguments import check_integer, check_number
from eqmol.models.reference import DoubleBuffers
from eqmol.nn import polynomial_envelope


class Screening(NamedTuple):
    """φ(x) = Σ c exp(-d x), x = r/a, a = length / (Z1^power + Z2^power).

    Attributes:
        terms: c and d.
        length: Å.
        power: of the charges.
        coulomb: Coulomb's constant times the elementary charge squared, eV Å.
    """

    terms: tuple[tuple[float, float], ...]
    length: float
    power: float
    coulomb: float


#: Universal screening. Source: Ziegler, Biersack, Littmark, The Stopping and Range of Ions in Solids (Pergamon, 1985), volume 1.
UNIVERSAL = Screening(
    ((0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162)),
    0.8854 * Bohr,
    0.23,
    Hartree * Bohr,
)
#: As in MACE's models (mace-torch 0.3.16, ``pair_repulsion``).
MACE_SCREENING = Screening(
    ((0.1818, 3.2), (0.5099, 0.9423), (0.2802, 0.4028), (0.02817, 0.2016)), 0.4543 * 0.529, 0.300, 14.3996
)
SCREENINGS = {"universal": UNIVERSAL, "mace": MACE_SCREENING}


class ZBLRepulsion(DoubleBuffers):
    """Screened Coulomb repulsion Z1 Z2 e²/r φ(r/a), taken smoothly to zero at the sum of covalent radii.

    Half of each pair's energy belongs to each atom. Atoms without neighbours have exactly zero.

    Args:
        elements: atomic numbers.
        cutoff: Å, cutoff of the edges; pairs whose covalent radii reach further end there.
        envelope_exponent: exponent of :func:`eqmol.nn.polynomial_envelope`.
        screening: constants.
        scale: of the energies.
    """

    charge: Tensor
    screened: Tensor
    radius: Tensor

    def __init__(
        self,
        elements: list[int],
        cutoff: float,
        envelope_exponent: int = 6,
        screening: Screening = UNIVERSAL,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.screening = screening
        self.scale = scale
        self.cutoff = cutoff
        self.envelope_exponent = envelope_exponent
        charge = torch.tensor(elements, dtype=torch.float64)
        radius = torch.tensor([float(covalent_radii[z]) for z in elements], dtype=torch.float64)
        self.register_buffer("charge", charge, persistent=False)
        self.register_buffer("screened", charge**screening.power, persistent=False)
        self.register_buffer("radius", radius, persistent=False)

    def forward(self, lengths: Tensor, species: Tensor, senders: Tensor, receivers: Tensor) -> Tensor:
        """Edge lengths [E] float64 in Å, element index [N], ends [E] -> energies [N], float64 eV."""
        a, b = species.index_select(0, senders), species.index_select(0, receivers)
        reach = (self.radius[a] + self.radius[b]).clamp(max=self.cutoff)
        near = torch.nonzero(lengths < reach).squeeze(-1)
        a, b, r = a[near], b[near], lengths[near]
        x = r * (self.screened[a] + self.screened[b]) / self.screening.length
        phi = torch.stack([c * torch.exp(-d * x) for c, d in self.screening.terms]).sum(0)
        phi = phi * polynomial_envelope(r / reach[near], self.envelope_exponent)
        pair = self.scale * self.screening.coulomb * self.charge[a] * self.charge[b] / r * phi
        return lengths.new_zeros(len(species)).index_add(0, receivers[near], pair / 2)


def make_repulsion(zbl: object, elements: list[int], cutoff: float) -> ZBLRepulsion | None:
    """The repulsion that an argument of a model asks for.

    Args:
        zbl: false; true, the universal potential; ``mace``, with MACE's constants; or a mapping of ``screening`` (``universal`` or
            ``mace``), ``scale`` and ``envelope_exponent``, each optional.
        elements, cutoff: of the model.

    Raises:
        InputError: anything else.
    """
    if type(zbl) is bool:
        return ZBLRepulsion(elements, cutoff) if zbl else None
    given = dict(zbl) if isinstance(zbl, Mapping) else {"screening": zbl}
    name = given.pop("screening", "universal")
    if not isinstance(name, str) or name not in SCREENINGS or not given.keys() <= {"scale", "envelope_exponent"}:
        raise InputError(
            f"zbl={short(zbl)} must be true, false, mace, or a mapping of screening (universal or mace), scale and "
            f"envelope_exponent"
        )
    return ZBLRepulsion(
        elements,
        cutoff,
        check_integer("envelope_exponent of zbl", given.get("envelope_exponent", 6), 2, 32),
        SCREENINGS[name],
        check_number("scale of zbl", given.get("scale", 1.0), 1e-9, 1e9),
    )
