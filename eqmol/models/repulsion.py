"""Repulsion of nuclei at short distances."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from ase.data import chemical_symbols, covalent_radii
from ase.units import Bohr, Hartree
from torch import Tensor

from eqmol.errors import InputError, short
from eqmol.graph.contacts import LEAST_OF_RADII
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
#: Argument of models whose repulsion ends where their training set begins.
AUTO = "auto"
#: Of the shortest distance of a training set, where a repulsion beside data ends: hotter structures come closer. Those of 3BPA up
#: to 1200 K have bonds of 0.945 of the shortest at 300 K.
BESIDE_DATA = 0.9
#: Of the sum of covalent radii: the same for pairs without data at bond lengths. Triple bonds have 0.77 (N-N) to 0.80 (C-O).
WITHOUT_DATA = 0.75
#: Pairs that :meth:`ZBLRepulsion.words` names.
NAMED = 6


class ZBLRepulsion(DoubleBuffers):
    """Screened Coulomb repulsion Z1 Z2 e²/r φ(r/a), taken smoothly to zero at a distance of each pair of elements.

    That distance is the sum of covalent radii, or, where a training set begins, what :meth:`settle` says. Half of each pair's
    energy belongs to each atom. Atoms without neighbours have exactly zero.

    Args:
        elements: atomic numbers.
        cutoff: Å, cutoff of the edges; pairs that would reach further end there.
        envelope_exponent: exponent of :func:`eqmol.nn.polynomial_envelope`.
        screening: constants.
        scale: of the energies.
        beside_data: whether it ends where a training set begins; it is nowhere before :meth:`settle`.

    Attributes:
        reach: where it ends, [elements, elements] Å; part of the state where it follows data.
    """

    charge: Tensor
    screened: Tensor
    reach: Tensor

    def __init__(
        self,
        elements: list[int],
        cutoff: float,
        envelope_exponent: int = 6,
        screening: Screening = UNIVERSAL,
        scale: float = 1.0,
        beside_data: bool = False,
    ) -> None:
        super().__init__()
        self.elements = list(elements)
        self.screening = screening
        self.scale = scale
        self.cutoff = cutoff
        self.envelope_exponent = envelope_exponent
        self.beside_data = beside_data
        charge = torch.tensor(elements, dtype=torch.float64)
        self.register_buffer("charge", charge, persistent=False)
        self.register_buffer("screened", charge**screening.power, persistent=False)
        reach = self._radii().clamp(max=cutoff)
        self.register_buffer("reach", torch.zeros_like(reach) if beside_data else reach, persistent=beside_data)

    def settle(self, shortest: Tensor) -> None:
        """End where a training set begins, so that nothing changes at the distances that it has.

        Pairs with data at bond lengths end at 0.9 of their shortest distance, others at 0.75 of the sum of covalent radii. Pairs
        closer than half of that sum have none: data have told the network how they repel.

        Args:
            shortest: see :func:`eqmol.graph.contacts.shortest_distances`, in the order of the elements.
        """
        bonds = self._radii()
        shortest = shortest.to(bonds)
        reach = torch.where(_bonded(shortest, bonds), BESIDE_DATA * shortest, WITHOUT_DATA * bonds)
        self.reach.copy_(torch.where(_close(shortest, bonds), 0.0, reach).clamp(max=self.cutoff))

    def words(self, shortest: Tensor) -> str:
        """What :meth:`settle` decided by the same distances, and why, in a sentence."""
        bonds = self._radii()
        close, bonded = _close(shortest, bonds), _bonded(shortest, bonds)
        below = (
            (bonded & ~close, f"below {BESIDE_DATA} of its shortest distance for", ""),
            (~bonded & ~close, f"below {WITHOUT_DATA} of the covalent radii for", ", which it never has bonded"),
        )
        parts = [f"{what} {self._pairs(chosen)}{why}" for chosen, what, why in below if bool(chosen.any())]
        if bool(close.any()):
            parts.append(f"none for {self._pairs(close)}, of which it has close contacts")
        return (
            f"repulsion of nuclei (ZBL) where the training set has no close contacts: {'; '.join(parts)} "
            "(predictor.zbl=false: none)"
        )

    def _radii(self) -> Tensor:
        """Sums of covalent radii, [elements, elements] float64 Å (Cordero et al., Dalton Trans. 2832 (2008))."""
        radius = torch.tensor([float(covalent_radii[z]) for z in self.elements], dtype=torch.float64)
        return radius[:, None] + radius

    def _pairs(self, chosen: Tensor) -> str:
        """The names of pairs, and where the repulsion of each ends."""
        names = [
            f"{chemical_symbols[self.elements[a]]}-{chemical_symbols[self.elements[b]]}"
            + (f" ({end:.2f} Å)" if (end := float(self.reach[a, b])) else "")
            for a, b in torch.nonzero(chosen.triu()).tolist()
        ]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        return ", ".join(names[:NAMED]) + more

    def forward(self, lengths: Tensor, species: Tensor, senders: Tensor, receivers: Tensor) -> Tensor:
        """Edge lengths [E] float64 in Å, element index [N], ends [E] -> energies [N], float64 eV."""
        a, b = species.index_select(0, senders), species.index_select(0, receivers)
        reach = self.reach.flatten().index_select(0, a * len(self.elements) + b)
        near = torch.nonzero(lengths < reach).squeeze(-1)
        energies = lengths.new_zeros(len(species))
        if len(near) == 0:
            return energies
        a, b, r = a[near], b[near], lengths[near]
        x = r * (self.screened[a] + self.screened[b]) / self.screening.length
        phi = torch.stack([c * torch.exp(-d * x) for c, d in self.screening.terms]).sum(0)
        phi = phi * polynomial_envelope(r / reach[near], self.envelope_exponent)
        pair = self.scale * self.screening.coulomb * self.charge[a] * self.charge[b] / r * phi
        return energies.index_add(0, receivers[near], pair / 2)


def _bonded(shortest: Tensor, bonds: Tensor) -> Tensor:
    """Which pairs a training set has at bond lengths."""
    return (shortest > 0) & (shortest <= bonds)


def _close(shortest: Tensor, bonds: Tensor) -> Tensor:
    """Which pairs a training set has so close that it shows how they repel."""
    return (shortest > 0) & (shortest <= LEAST_OF_RADII * bonds)


def make_repulsion(zbl: object, elements: list[int], cutoff: float) -> ZBLRepulsion | None:
    """The repulsion that an argument of a model asks for.

    Args:
        zbl: false; true, the universal potential; ``auto``, the same where a training set has no distances; ``mace``, with MACE's
            constants; or a mapping of ``screening`` (``universal`` or ``mace``), ``scale`` and ``envelope_exponent``, each
            optional.
        elements, cutoff: of the model.

    Raises:
        InputError: anything else.
    """
    if type(zbl) is bool:
        return ZBLRepulsion(elements, cutoff) if zbl else None
    if zbl == AUTO:
        return ZBLRepulsion(elements, cutoff, beside_data=True)
    given = dict(zbl) if isinstance(zbl, Mapping) else {"screening": zbl}
    name = given.pop("screening", "universal")
    if not isinstance(name, str) or name not in SCREENINGS or not given.keys() <= {"scale", "envelope_exponent"}:
        raise InputError(
            f"zbl={short(zbl)} must be true, false, auto, mace, or a mapping of screening (universal or mace), scale and "
            f"envelope_exponent"
        )
    return ZBLRepulsion(
        elements,
        cutoff,
        check_integer("envelope_exponent of zbl", given.get("envelope_exponent", 6), 2, 32),
        SCREENINGS[name],
        check_number("scale of zbl", given.get("scale", 1.0), 1e-9, 1e9),
    )
