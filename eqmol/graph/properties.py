"""Properties of molecules by the names, and in the order, of QM9 and of ``torch_geometric.datasets.QM9``.

Ramakrishnan et al., Sci. Data 1, 140022 (2014). Labels and predictions are in the project's units: eV, and D, a0², a0³,
cal/(mol K) and GHz where chemists use them.
"""

from dataclasses import dataclass
from typing import Final, Literal

from eqmol.units import HARTREE, KCAL_PER_MOL, MEV

#: Name of the field [N, features] of graphs with further inputs, see :mod:`eqmol.molecules.features`.
FEATURES: Final = "features"

#: How a property follows from atoms: a sum over atoms, their mean, the norm of the dipole moment, or the second moment of
#: a distribution of charge.
Kind = Literal["extensive", "intensive", "dipole", "extent"]


@dataclass(frozen=True)
class Property:
    """What a property is.

    Attributes:
        kind: how it follows from atoms.
        unit: of labels and predictions.
        raw_factor: ``unit`` per unit of QM9's raw files.
        shown_unit: of errors in tables.
        shown_factor: ``shown_unit`` per ``unit``.
    """

    kind: Kind
    unit: str
    raw_factor: float = 1.0
    shown_unit: str = ""
    shown_factor: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "shown_unit", self.shown_unit or self.unit)


def _energy(kind: Kind, raw_factor: float = HARTREE) -> Property:
    return Property(kind, "eV", raw_factor, "meV", MEV)


PROPERTIES: Final[dict[str, Property]] = {
    "mu": Property("dipole", "D"),
    "alpha": Property("extensive", "a0³"),
    "homo": _energy("intensive"),
    "lumo": _energy("intensive"),
    "gap": _energy("intensive"),
    "r2": Property("extent", "a0²"),
    "zpve": _energy("extensive"),
    "U0": _energy("extensive"),
    "U": _energy("extensive"),
    "H": _energy("extensive"),
    "G": _energy("extensive"),
    "Cv": Property("extensive", "cal/(mol K)"),
    "U0_atom": _energy("extensive", KCAL_PER_MOL),
    "U_atom": _energy("extensive", KCAL_PER_MOL),
    "H_atom": _energy("extensive", KCAL_PER_MOL),
    "G_atom": _energy("extensive", KCAL_PER_MOL),
    "A": Property("intensive", "GHz"),
    "B": Property("intensive", "GHz"),
    "C": Property("intensive", "GHz"),
}
#: The twelve that models are trained on.
TARGETS: Final = tuple(PROPERTIES)[:12]

#: Properties of free atoms in the units of :data:`PROPERTIES`, by atomic number: ``atomref.txt`` of the data set, B3LYP.
ATOM_REFERENCES: Final[dict[str, dict[int, float]]] = {
    name: {z: value * PROPERTIES[name].raw_factor for z, value in values.items()}
    for name, values in {
        "U0": {1: -0.500273, 6: -37.846772, 7: -54.583861, 8: -75.064579, 9: -99.718730},
        "U": {1: -0.498857, 6: -37.845355, 7: -54.582445, 8: -75.063163, 9: -99.717314},
        "H": {1: -0.497912, 6: -37.844411, 7: -54.581501, 8: -75.062219, 9: -99.716370},
        "G": {1: -0.510927, 6: -37.861317, 7: -54.598897, 8: -75.079532, 9: -99.733544},
        "Cv": dict.fromkeys((1, 6, 7, 8, 9), 2.981),
    }.items()
}
