"""Optional inputs of property models beside elements and positions: bonds, and RDKit's descriptors of the molecule.

Every feature is one number per atom; a descriptor is the same for all atoms of a molecule.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem
from rdkit.Chem import Descriptors

from eqmol.errors import InputError

_HYBRIDIZATION = Chem.HybridizationType
BONDS: Final[dict[str, Callable[[Chem.Atom], float]]] = {
    "bond_order": lambda atom: sum(bond.GetBondTypeAsDouble() for bond in atom.GetBonds()),
    "formal_charge": lambda atom: atom.GetFormalCharge(),
    "aromatic": lambda atom: atom.GetIsAromatic(),
    "in_ring": lambda atom: atom.IsInRing(),
    "sp": lambda atom: atom.GetHybridization() == _HYBRIDIZATION.SP,
    "sp2": lambda atom: atom.GetHybridization() == _HYBRIDIZATION.SP2,
    "sp3": lambda atom: atom.GetHybridization() == _HYBRIDIZATION.SP3,
}
_DESCRIPTORS: Final[dict[str, Callable[[Chem.Mol], float]]] = dict(Descriptors.descList)


def expand(features: Sequence[str]) -> tuple[str, ...]:
    """Names of single features: "bonds" stands for all of :data:`BONDS`.

    Args:
        features: "bonds", names of :data:`BONDS`, and names of RDKit's descriptors such as "MolLogP" and "TPSA".

    Raises:
        InputError: an unknown name.
    """
    names = [name for given in features for name in (BONDS if given == "bonds" else [given])]
    for name in names:
        if name not in BONDS and name not in _DESCRIPTORS:
            raise InputError(
                f"the feature {name!r} is unknown; choose bonds, {', '.join(BONDS)}, or descriptors of RDKit such as MolLogP "
                "and TPSA (rdkit.Chem.Descriptors.descList)"
            )
    return tuple(dict.fromkeys(names))


def atom_features(mol: Chem.Mol, names: Sequence[str]) -> NDArray[np.float64]:
    """Return the features [N, names] of a sanitised molecule with all its hydrogens.

    Raises:
        InputError: a descriptor that is not finite.
    """
    values: dict[str, Any] = {}
    for name in names:
        of_atom = BONDS.get(name)
        values[name] = _descriptor(mol, name) if of_atom is None else [of_atom(atom) for atom in mol.GetAtoms()]
    columns = [np.broadcast_to(np.asarray(value, dtype=np.float64), mol.GetNumAtoms()) for value in values.values()]
    return np.stack(columns, axis=1)


def measure_features(features: Sequence[NDArray[np.float64]], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Per feature "mean" and "scale" over all atoms; the scale of a constant one is 1."""
    values = np.concatenate(features)
    means, scales = values.mean(axis=0), values.std(axis=0)
    return {
        name: {"mean": float(mean), "scale": float(scale) if scale > 1e-9 else 1.0}
        for name, mean, scale in zip(names, means, scales, strict=True)
    }


def _descriptor(mol: Chem.Mol, name: str) -> float:
    # most are defined for molecules without explicit hydrogens
    value = float(_DESCRIPTORS[name](Chem.RemoveHs(mol)))
    if not np.isfinite(value):
        raise InputError(f"RDKit's descriptor {name} is {value} for it")
    return value
