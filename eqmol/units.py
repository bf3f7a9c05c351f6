"""Units of the project: Å, eV and what is made of them (eV/Å, eV/Å³), everywhere but at the doors."""

from typing import Final

MEV: Final = 1000.0  #: meV in an eV; error tables are in milli-units
