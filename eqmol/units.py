"""Units of the project: Å, eV and what is made of them (eV/Å, eV/Å³), everywhere but at the doors."""

from typing import Final

MEV: Final = 1000.0  #: meV in an eV; error tables are in milli-units
HARTREE: Final = 27.211386246  #: eV in a Hartree (CODATA 2018), as torch_geometric.datasets.QM9 has it
KCAL_PER_MOL: Final = 0.04336414  #: eV in a kcal/mol, as torch_geometric.datasets.QM9 has it
BOHR: Final = 0.529177210903  #: Å in a Bohr radius (CODATA 2018)
DEBYE: Final = 0.20819433270  #: e·Å in a Debye
GPA: Final = 1.0 / 160.2176634  #: eV/Å³ in a GPa, exact since 2019
