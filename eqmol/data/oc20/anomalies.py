"""Ends of relaxations whose energies are no adsorption energies.

After AdsorbML (Lan et al., npj Comput. Mater. 9, 172 (2023)): ends in which the adsorbate fell apart or left the surface do not
count, nor those in which the surface is another one than that of the reference energy, which is that of the start.
"""

import ase
import numpy as np
from ase.neighborlist import natural_cutoffs, neighbor_list
from numpy.typing import NDArray

from eqmol.data.oc20.frame import ADSORBATE

#: Of the sum of covalent radii (Cordero et al., Dalton Trans. 2832 (2008)): atoms of an adsorbate that are bonded, and adsorbates
#: that hold to the surface. Bonds of the surface are broken or made only where one limit is crossed and then the other.
BONDED, HELD = 1.25, 1.5
DISSOCIATED, DESORBED, CHANGED = "dissociated", "desorbed", "surface changed"


def anomaly(start: ase.Atoms, end: ase.Atoms) -> str:
    """Return the first of "dissociated", "desorbed" and "surface changed" that is so, or "", or "" where tags mark no adsorbate.

    Args:
        start: with tags [N], 2 for the adsorbate.
        end: the same atoms after the relaxation.
    """
    adsorbate = start.get_tags() == ADSORBATE
    if not adsorbate.any() or adsorbate.all():
        return ""
    if not np.array_equal(_bonds(start[adsorbate], BONDED), _bonds(end[adsorbate], BONDED)):
        return DISSOCIATED
    if not _bonds(end, HELD)[np.ix_(adsorbate, ~adsorbate)].any():
        return DESORBED
    before, after = ([_bonds(atoms[~adsorbate], reach) for reach in (BONDED, HELD)] for atoms in (start, end))
    broken, made = before[0] > after[1], after[0] > before[1]
    return CHANGED if (broken | made).any() else ""


def _bonds(atoms: ase.Atoms, multiplier: float) -> NDArray[np.int64]:
    """Return how many images of each atom are closer to each other one [N, N] than so many sums of their covalent radii."""
    senders, receivers = neighbor_list("ij", atoms, natural_cutoffs(atoms, multiplier))
    bonds = np.zeros((len(atoms), len(atoms)), np.int64)
    np.add.at(bonds, (senders, receivers), 1)
    return bonds
