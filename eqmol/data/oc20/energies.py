"""Which energy of a frame is learnt, and from what per-element energies.

The adsorption energy is the total energy less that of the slab and of the adsorbate apart: it is not extensive, and every
element's own energy is 0. Total energies have per-element energies, fitted to the training set or given.
"""

import numpy as np
from numpy.typing import NDArray

from eqmol.data.oc20.graphs import Library
from eqmol.errors import InputError

ENERGIES = ("auto", "adsorption", "total")


def choose_energies(library: Library, energy: str) -> tuple[NDArray[np.float64], bool]:
    """Return the energies to be learnt [F] (eV), and whether they are adsorption energies.

    Args:
        library: all frames.
        energy: "adsorption", "total", or "auto" for the first where every frame has a reference energy.

    Raises:
        InputError: frames without a reference energy, or with nothing but an adsorption energy.
    """
    known = np.isfinite(library.reference)
    if energy == "adsorption" or (energy == "auto" and known.any()):
        if not known.all():
            i = int(np.flatnonzero(~known)[0])
            raise InputError(
                f"{library.sources[library.shard[i]]} has no reference energy for {library.systems[library.system[i]]} "
                f"({(~known).sum()} of {len(known)} frames lack one), so its adsorption energy is not known; choose "
                "files of one kind with data.files, or use data.energy=total"
            )
        return library.energy - library.reference, True
    referenced = np.flatnonzero(library.reference == 0.0)
    if len(referenced) > 0:
        source = library.sources[library.shard[referenced[0]]]
        raise InputError(
            f"data.energy=total, but {source} holds adsorption energies only; prepare it with data.total=true if they are "
            "total energies after all"
        )
    return library.energy, False


def relaxed(library: Library) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first frame of each system [S], and per frame [F] the last one of its system."""
    systems = np.arange(len(library.systems))
    last = np.searchsorted(library.system, systems, side="right") - 1
    return np.searchsorted(library.system, systems), last[library.system]
