"""Molecules from SMILES and chemists' files."""

import re

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from eqmol.errors import InputError
from eqmol.molecules.molecule import Failure, Molecule, from_smiles, read_molecules

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


def test_smiles_gives_the_same_sensible_structure_every_time():
    first, again = from_smiles(ASPIRIN, conformers=3), from_smiles(ASPIRIN, conformers=3)
    assert isinstance(first, Molecule)
    atoms = first.atoms()
    assert atoms.get_chemical_formula() == "C9H8O4"
    np.testing.assert_array_equal(atoms.positions, again.atoms().positions)
    bonds = [atoms.get_distance(b.GetBeginAtomIdx(), b.GetEndAtomIdx(), mic=False) for b in first.mol.GetBonds()]
    assert 0.9 < min(bonds) < max(bonds) < 1.6
    assert first.smiles == Chem.CanonSmiles(ASPIRIN)


def test_the_lowest_conformer_is_taken():
    """Butane: anti, not gauche."""
    atoms = from_smiles("CCCC", conformers=10).atoms()
    carbons = [i for i, z in enumerate(atoms.numbers) if z == 6]
    assert atoms.get_dihedral(*carbons) == pytest.approx(180.0, abs=2.0)


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("CC(", "is not a SMILES"),
        ("", "is not a SMILES"),
        ("C(C)(C)(C)(C)C", "cannot sanitise it: .*valence"),
        ("c1cccc1", "cannot sanitise it"),
        ("[Na+].[Cl-]", "2 separate parts, as salts"),
        ("CC(=O)[O-]", r"charge -1; models here are for neutral"),
        ("*C", "without an element"),
        ("[CH3]", "it has 1 unpaired electron; models here are for closed shells"),
        ("[O][O]", "2 unpaired electrons"),
        ("CCO[O]", "1 unpaired electron"),
        ("F[Xe]F", "neither MMFF94s nor UFF parameters"),
    ],
)
def test_what_is_no_molecule_is_named(smiles, reason):
    found = from_smiles(smiles, name="mine")
    assert isinstance(found, Failure)
    assert found.name == "mine"
    assert re.search(reason, found.reason), found.reason


@pytest.mark.parametrize(
    ("smiles", "bond", "length"),
    [("C[Se]C", ("C", "Se"), 1.94), ("CB(C)C", ("C", "B"), 1.58)],  # gas-phase electron diffraction
)
def test_uff_minimises_what_mmff_does_not_know(smiles, bond, length):
    found = from_smiles(smiles, conformers=2)
    assert isinstance(found, Molecule)
    assert found.structure == "UFF"
    properties = rdForceFieldHelpers.UFFGetMoleculeForceField(found.mol)
    assert np.abs(properties.CalcGrad()).max() < 1e-2  # kcal/(mol Å): at a minimum
    symbols = np.array(found.atoms().get_chemical_symbols())
    distances = found.atoms().get_all_distances()[np.ix_(symbols == bond[0], symbols == bond[1])]
    assert distances.min() == pytest.approx(length, abs=0.1)


def test_the_structure_says_where_it_comes_from(tmp_path):
    methane = from_smiles("C", conformers=1)
    assert methane.structure == "MMFF94s"
    path = tmp_path / "one.sdf"
    for hydrogens, structure in ((4, "given"), (3, "given, 1 H added")):
        atoms = Chem.RWMol(methane.mol)
        for index in range(4, hydrogens, -1):
            atoms.RemoveAtom(index)
        with Chem.SDWriter(str(path)) as writer:
            writer.write(atoms)
        (found,) = read_molecules(path)
        assert found.structure == structure
        assert found.atoms().get_chemical_formula() == "CH4"


def test_radicals_in_an_sdf_are_named(tmp_path):
    path = tmp_path / "one.sdf"
    methyl = Chem.AddHs(Chem.MolFromSmiles("[CH3]"))
    rdDistGeom.EmbedMolecule(methyl, randomSeed=0)
    with Chem.SDWriter(str(path)) as writer:
        writer.write(methyl)
    (found,) = read_molecules(path)
    assert isinstance(found, Failure)
    assert "1 unpaired electron" in found.reason


def test_smi_file(tmp_path):
    path = tmp_path / "some.smi"
    path.write_text("# comment\nO water\n\nC1CC\tbroken ring\nCO\n")
    water, broken, methanol = read_molecules(path, conformers=1)
    assert (water.name, methanol.name) == ("water", "CO")
    assert isinstance(broken, Failure)
    assert (broken.name, broken.source) == ("broken ring", f"{path}, line 4")


def test_sdf_keeps_coordinates_and_goes_on_after_a_broken_record(tmp_path):
    path = tmp_path / "some.sdf"
    water = from_smiles("O", name="water", conformers=1)
    water.mol.SetProp("_Name", "water")
    flat = Chem.MolFromSmiles("CO")
    flat.SetProp("_Name", "flat")
    with Chem.SDWriter(str(path)) as writer:
        writer.write(water.mol)
        writer.write(flat)
        writer.write(water.mol)
    records = path.read_text().split("$$$$\n")
    path.write_text("$$$$\n".join([records[0], "broken\n\n\nno counts\nM  END\n", *records[1:]]))
    first, broken, methanol, last = read_molecules(path, conformers=1)
    np.testing.assert_allclose(first.atoms().positions, water.atoms().positions, atol=1e-4)
    assert isinstance(broken, Failure)
    assert (broken.name, broken.source) == ("broken", f"{path}, molecule 2")
    assert methanol.atoms().get_chemical_formula() == "CH4O"
    assert np.ptp(methanol.atoms().positions, axis=0).min() > 0.1  # no longer flat
    assert last.name == "water"


def test_mol2(tmp_path):
    path = tmp_path / "one.mol2"
    path.write_text(
        "@<TRIPOS>MOLECULE\nmonoxide\n2 1 0 0 0\nSMALL\nNO_CHARGES\n\n@<TRIPOS>ATOM\n"
        "1 N1 0.0 0.0 0.0 N.1\n2 N2 0.0 0.0 1.1 N.1\n@<TRIPOS>BOND\n1 1 2 3\n"
    )
    (found,) = read_molecules(path)
    assert found.name == "monoxide"
    assert found.atoms().get_distance(0, 1) == pytest.approx(1.1)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        list(read_molecules(tmp_path / "absent.smi"))
    (tmp_path / "empty.smi").write_text("\n")
    with pytest.raises(InputError, match="has no molecules"):
        list(read_molecules(tmp_path / "empty.smi"))
    with pytest.raises(InputError, match=r"none of \.sdf, \.mol, \.mol2, \.smi"):
        list(read_molecules(tmp_path / "a.pdb"))


def test_moved():
    water = from_smiles("O", conformers=1)
    atoms = water.atoms()
    atoms.positions += 1.0
    np.testing.assert_array_equal(water.moved(atoms).atoms().positions, atoms.positions)
    assert not np.allclose(water.atoms().positions, atoms.positions)
