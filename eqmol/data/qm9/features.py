"""Bonds and descriptors of QM9's molecules, from the SDF."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase

from eqmol.data.qm9.reader import Molecules
from eqmol.errors import InputError
from eqmol.molecules.features import atom_features

#: How many molecules a warning names.
_NAMED = 10


def with_features(molecules: Molecules, sdf: Path, names: Sequence[str]) -> tuple[Molecules, list[NDArray[np.float64]]]:
    """Return the molecules that RDKit can sanitise, and the features [N, names] of each; a warning names the others.

    Args:
        molecules: read from ``sdf``.
        sdf: has their bonds.
        names: see :func:`eqmol.molecules.features.expand`.

    Raises:
        InputError: ``sdf`` is not an SDF, or there is no molecule with features.
    """
    if sdf.suffix != ".sdf":
        raise InputError(f"data.features needs bonds, which {sdf} does not have; give gdb9.sdf, or data.features=[]")
    found: dict[int, NDArray[np.float64]] = {}
    reasons = dict.fromkeys(range(len(molecules)), "its record cannot be read")
    row_of = {number: row for row, number in enumerate(molecules.ids.tolist())}
    with rdBase.BlockLogs():
        for mol in Chem.SDMolSupplier(str(sdf), sanitize=False, removeHs=False):
            row = None if mol is None else row_of.get(int(mol.GetProp("_Name")[len("gdb_") :]))
            if row is None:
                continue
            try:
                Chem.SanitizeMol(mol)
                found[row] = atom_features(mol, names)
                del reasons[row]
            except ValueError as error:
                reasons[row] = " ".join(str(error).split())
    if not found:
        raise InputError(f"{sdf}: RDKit finds the features {', '.join(names)} of no molecule")
    if reasons:
        listed = "; ".join(f"gdb_{molecules.ids[row]} ({reasons[row]})" for row in sorted(reasons)[:_NAMED])
        more = f" and {len(reasons) - _NAMED} more" if len(reasons) > _NAMED else ""
        warnings.warn(f"{sdf}: molecules without features are left out: {listed}{more}", stacklevel=3)
    kept = np.isin(np.arange(len(molecules)), list(found))
    return molecules.select(kept), [found[row] for row in sorted(found)]
