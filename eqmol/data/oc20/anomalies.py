"""Ends of relaxations whose energies are no adsorption energies.

After AdsorbML (Lan et al., npj Comput. Mater. 9, 172 (2023)): adsorbates that fell apart or left the surface do not count.
"""

import ase
import numpy as np
from ase.neighborlist import natural_cutoffs, neighbor_list
from numpy.typing import NDArray

from eqmol.data.oc20.frame import ADSORBATE

#: Of the sum of covalent radii (Cordero et al., Dalton Trans. 2832 (2008)): atoms of an adsorbate that are bonded, and adsorbates
#: that hold to the surface.
BONDED, HELD = 1.25, 1.5


def anomaly(start: ase.Atoms, end: ase.Atoms) -> str:
    """Return "dissociated" or "desorbed", or "" where neither is so, or where tags mark no adsorbate.

    Args:
        start: with tags [N], 2 for the adsorbate.
        end: the same atoms after the relaxation.
    """
    adsorbate = start.get_tags() == ADSORBATE
    if not adsorbate.any() or adsorbate.all():
        return ""
    if not np.array_equal(_bonds(start[adsorbate], BONDED), _bonds(end[adsorbate], BONDED)):
        return "dissociated"
    return "" if _bonds(end, HELD)[np.ix_(adsorbate, ~adsorbate)].any() else "desorbed"


def _bonds(atoms: ase.Atoms, multiplier: float) -> NDArray[np.bool_]:
    """Return which atoms [N, N] are closer than so many sums of their covalent radii, nearest images included."""
    senders, receivers = neighbor_list("ij", atoms, natural_cutoffs(atoms, multiplier))
    bonds = np.zeros((len(atoms), len(atoms)), bool)
    bonds[senders, receivers] = True
    return bonds
