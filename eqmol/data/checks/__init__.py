"""What is wrong with data, told by the structures and labels themselves; the same for ``eqmol doctor`` and for training.

A check takes the structures of all sets by name and returns what it found, see :class:`eqmol.data.checks.finding.Finding`.
"""

from eqmol.data.checks.duplicates import duplicates
from eqmol.data.checks.energies import energies
from eqmol.data.checks.finding import Finding, Sets
from eqmol.data.checks.forces import forces
from eqmol.data.checks.pairs import units
from eqmol.data.checks.structures import cells, elements, lengths

__all__ = ["Finding", "Sets", "check"]

CHECKS = (lengths, cells, elements, energies, forces, units, duplicates)


def check(sets: Sets) -> list[Finding]:
    """Return what all checks found in structures without isolated atoms, culprits first."""
    found = [finding for run in CHECKS for finding in run(sets)]
    return sorted(found, key=lambda finding: not finding.culprit)
