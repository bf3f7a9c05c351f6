"""Bonds and descriptors as numbers of atoms."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import Descriptors

from eqmol.errors import InputError
from eqmol.molecules.features import BONDS, atom_features, expand


def hydrogenated(smiles: str) -> Chem.Mol:
    return Chem.AddHs(Chem.MolFromSmiles(smiles))


def test_bonds_of_known_molecules():
    names = ("bond_order", "aromatic", "in_ring", "sp", "sp2", "sp3")
    benzene = atom_features(hydrogenated("c1ccccc1"), names)
    assert benzene[:6].tolist() == [[4, 1, 1, 0, 1, 0]] * 6
    assert benzene[6:].tolist() == [[1, 0, 0, 0, 0, 0]] * 6
    assert atom_features(hydrogenated("CC#N"), names)[:3].tolist() == [
        [4, 0, 0, 0, 0, 1],
        [4, 0, 0, 1, 0, 0],
        [3, 0, 0, 1, 0, 0],
    ]
    assert atom_features(hydrogenated("C[N+](=O)[O-]"), ("formal_charge",))[:4, 0].tolist() == [0, 1, 0, -1]


def test_descriptors_are_those_of_the_molecule_without_hydrogens():
    found = atom_features(hydrogenated("CC(=O)O"), ("TPSA", "bond_order", "MolLogP"))
    mol = Chem.MolFromSmiles("CC(=O)O")
    np.testing.assert_allclose(found[:, 0], Descriptors.TPSA(mol))
    np.testing.assert_allclose(found[:, 2], Descriptors.MolLogP(mol))
    assert found[:4, 1].tolist() == [4, 4, 2, 2]


def test_names():
    assert expand(["TPSA", "bonds", "sp2"]) == ("TPSA", *BONDS)
    with pytest.raises(InputError, match="the feature 'logp' is unknown; choose bonds, bond_order"):
        expand(["logp"])
