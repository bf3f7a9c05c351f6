"""QM9's properties by their names, and in the order, of ``torch_geometric.datasets.QM9``.

Ramakrishnan et al., Sci. Data 1, 140022 (2014). Labels and predictions are in the project's units: eV, and D, a0², a0³,
cal/(mol K) and GHz where chemists use them.
"""

from typing import Final

from eqmol.graph.targets import Kind, Target
from eqmol.units import HARTREE, KCAL_PER_MOL

#: Name -> kind, unit, unit per unit of the raw files.
_TABLE: Final[dict[str, tuple[Kind, str, float]]] = {
    "mu": ("dipole_norm", "D", 1.0),
    "alpha": ("extensive", "a0³", 1.0),
    "homo": ("intensive", "eV", HARTREE),
    "lumo": ("intensive", "eV", HARTREE),
    "gap": ("intensive", "eV", HARTREE),
    "r2": ("extent", "a0²", 1.0),
    "zpve": ("extensive", "eV", HARTREE),
    "U0": ("extensive", "eV", HARTREE),
    "U": ("extensive", "eV", HARTREE),
    "H": ("extensive", "eV", HARTREE),
    "G": ("extensive", "eV", HARTREE),
    "Cv": ("extensive", "cal/(mol K)", 1.0),
    "U0_atom": ("extensive", "eV", KCAL_PER_MOL),
    "U_atom": ("extensive", "eV", KCAL_PER_MOL),
    "H_atom": ("extensive", "eV", KCAL_PER_MOL),
    "G_atom": ("extensive", "eV", KCAL_PER_MOL),
    "A": ("intensive", "GHz", 1.0),
    "B": ("intensive", "GHz", 1.0),
    "C": ("intensive", "GHz", 1.0),
}
TARGETS: Final = {name: Target(name, kind, unit) for name, (kind, unit, _) in _TABLE.items()}
#: Unit of a target per unit of the raw files.
RAW_FACTORS: Final = {name: factor for name, (_, _, factor) in _TABLE.items()}
#: Column of each target in tables of all of them.
COLUMNS: Final = {name: column for column, name in enumerate(TARGETS)}
#: The twelve that models are trained on.
TRAINED: Final = tuple(TARGETS)[:12]

#: Properties of free atoms in the units of the targets, by atomic number: ``atomref.txt`` of the data set, B3LYP.
ATOM_REFERENCES: Final[dict[str, dict[int, float]]] = {
    name: {z: value * RAW_FACTORS[name] for z, value in values.items()}
    for name, values in {
        "U0": {1: -0.500273, 6: -37.846772, 7: -54.583861, 8: -75.064579, 9: -99.718730},
        "U": {1: -0.498857, 6: -37.845355, 7: -54.582445, 8: -75.063163, 9: -99.717314},
        "H": {1: -0.497912, 6: -37.844411, 7: -54.581501, 8: -75.062219, 9: -99.716370},
        "G": {1: -0.510927, 6: -37.861317, 7: -54.598897, 8: -75.079532, 9: -99.733544},
        "Cv": dict.fromkeys((1, 6, 7, 8, 9), 2.981),
    }.items()
}
