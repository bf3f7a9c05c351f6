"""Molecules from SMILES and from files of chemists, with their structure in space, by RDKit.

Conformers: ETKDGv3 (Wang et al. 2020, doi 10.1021/acs.jcim.0c00025) from a fixed seed, the lowest of several after
minimisation by MMFF94s (Halgren 1999, doi 10.1002/(SICI)1096-987X(199905)20:7<720::AID-JCC7>3.0.CO;2-X), or by UFF (Rappé et
al. 1992, doi 10.1021/ja00051a040) where MMFF94s lacks parameters, as for boron, selenium and metals.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ase
import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from eqmol.errors import InputError

#: Endings of files that :func:`read_molecules` reads.
ENDINGS = (".sdf", ".mol2", ".smi")
MMFF, UFF = "MMFF94s", "UFF"
_MAX_ATTEMPTS = 50
_MAX_ITERATIONS = 2000


class Molecule(NamedTuple):
    """A molecule with one conformer.

    Attributes:
        name: as its file has it, else its SMILES.
        source: where it comes from, for messages.
        mol: with hydrogens and coordinates in Å.
        structure: where the coordinates come from: "given", with the number of hydrogens that were added, or the force field
            that minimised a conformer.
    """

    name: str
    source: str
    mol: Chem.Mol
    structure: str = "given"

    @property
    def smiles(self) -> str:
        """Canonical SMILES without hydrogens."""
        return Chem.MolToSmiles(Chem.RemoveHs(self.mol))

    def atoms(self) -> ase.Atoms:
        """The structure."""
        numbers = [atom.GetAtomicNum() for atom in self.mol.GetAtoms()]
        return ase.Atoms(numbers=numbers, positions=np.array(self.mol.GetConformer().GetPositions()))

    def moved(self, atoms: ase.Atoms) -> "Molecule":
        """The same molecule with the positions of ``atoms``."""
        mol = Chem.Mol(self.mol)
        mol.GetConformer().SetPositions(np.ascontiguousarray(atoms.positions))
        return self._replace(mol=mol, structure="relaxed")


class Failure(NamedTuple):
    """A molecule without a structure, and why.

    Attributes:
        name, source: as of :class:`Molecule`.
        reason: for a person.
    """

    name: str
    source: str
    reason: str


def read_molecules(path: str | Path, conformers: int = 10, seed: int = 0) -> Iterator[Molecule | Failure]:
    """Read the molecules of an .sdf, .mol2 or .smi file; those without coordinates in space get a conformer.

    Args:
        path: one molecule per record; a line of a .smi file is a SMILES and, after a blank, a name.
        conformers: how many are tried.
        seed: of the conformers.

    Raises:
        InputError: the file is absent, empty, or of another kind.
    """
    path = Path(path)
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"{path} is none of {', '.join(ENDINGS)}")
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    found = {".sdf": _from_sdf, ".mol2": _from_mol2, ".smi": _from_smi}[path.suffix.lower()](path, conformers, seed)
    count = 0
    for count, entry in enumerate(found, start=1):  # noqa: B007  read after the loop
        yield entry
    if count == 0:
        raise InputError(f"{path} has no molecules")


def from_smiles(
    smiles: str, name: str = "", source: str = "", conformers: int = 10, seed: int = 0
) -> Molecule | Failure:
    """Turn a SMILES into a molecule in space, the same one every time.

    Args:
        smiles: of one molecule.
        name: the SMILES itself if empty.
        source: for messages; the SMILES itself if empty.
        conformers, seed: as of :func:`read_molecules`.
    """
    name, source = name or smiles, source or smiles
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles, sanitize=False)
    if mol is None or mol.GetNumAtoms() == 0:
        return Failure(name, source, f"{smiles!r} is not a SMILES")
    return _complete(mol, name, source, conformers, seed)


def _from_smi(path: Path, conformers: int, seed: int) -> Iterator[Molecule | Failure]:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.startswith("#"):
            smiles, *rest = line.split(maxsplit=1)
            yield from_smiles(smiles, rest[0].strip() if rest else "", f"{path}, line {number}", conformers, seed)


def _from_sdf(path: Path, conformers: int, seed: int) -> Iterator[Molecule | Failure]:
    with rdBase.BlockLogs():
        supplier = Chem.SDMolSupplier(str(path), sanitize=False, removeHs=False)
        for index, mol in enumerate(supplier):
            yield _from_record(mol, supplier.GetItemText(index), path, index, conformers, seed)


def _from_mol2(path: Path, conformers: int, seed: int) -> Iterator[Molecule | Failure]:
    text = path.read_text(encoding="utf-8", errors="replace")
    marker = "@<TRIPOS>MOLECULE"
    for index, block in enumerate(text.split(marker)[1:]):
        with rdBase.BlockLogs():
            mol = Chem.MolFromMol2Block(marker + block, sanitize=False, removeHs=False)
        yield _from_record(mol, block.lstrip(), path, index, conformers, seed)


def _from_record(
    mol: Chem.Mol | None, text: str, path: Path, index: int, conformers: int, seed: int
) -> Molecule | Failure:
    source = f"{path}, molecule {index + 1}"
    name = (text.splitlines() or [""])[0].strip() or f"{path.stem}_{index + 1}"
    if mol is None or mol.GetNumAtoms() == 0:
        return Failure(name, source, "the record cannot be read")
    return _complete(mol, name, source, conformers, seed)


def _complete(mol: Chem.Mol, name: str, source: str, conformers: int, seed: int) -> Molecule | Failure:
    """Sanitise, refuse what has no meaning as one neutral molecule, and give it a structure if it has none."""
    in_space = mol.GetNumConformers() > 0 and mol.GetConformer().Is3D()
    with rdBase.BlockLogs():
        try:
            Chem.SanitizeMol(mol)
        except ValueError as error:
            return Failure(name, source, f"RDKit cannot sanitise it: {' '.join(str(error).split())}")
    fragments = len(Chem.GetMolFrags(mol))
    if fragments > 1:
        return Failure(name, source, f"it is {fragments} separate parts, as salts and mixtures are; give one molecule")
    charge = Chem.GetFormalCharge(mol)
    if charge:
        return Failure(name, source, f"it has the charge {charge:+d}; models here are for neutral molecules")
    if any(atom.GetAtomicNum() == 0 for atom in mol.GetAtoms()):
        return Failure(name, source, "it has an atom without an element (*)")
    if unpaired := _unpaired_electrons(mol):
        are = "1 unpaired electron" if unpaired == 1 else f"{unpaired} unpaired electrons"
        return Failure(name, source, f"it has {are}; models here are for closed shells")
    if in_space:
        hydrogens = sum(atom.GetTotalNumHs() for atom in mol.GetAtoms())
        if hydrogens:
            return Molecule(name, source, Chem.AddHs(mol, addCoords=True), f"given, {hydrogens} H added")
        return Molecule(name, source, mol)
    mol = Chem.AddHs(mol)
    field = _force_field(mol)
    if field is None:
        return Failure(
            name,
            source,
            "RDKit has neither MMFF94s nor UFF parameters for it, so a conformer could not be minimised; give it with "
            "coordinates, as .sdf or .mol2",
        )
    embedded = _embed(mol, field, conformers, seed)
    if embedded is None:
        return Failure(name, source, "RDKit finds no structure in space for it")
    return Molecule(name, source, embedded, field)


def _unpaired_electrons(mol: Chem.Mol) -> int:
    """Radical electrons that the valences leave; at least one where the number of electrons is odd."""
    radical = sum(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())
    electrons = sum(atom.GetAtomicNum() + atom.GetTotalNumHs() for atom in mol.GetAtoms()) - Chem.GetFormalCharge(mol)
    return max(radical, electrons % 2)


def _force_field(mol: Chem.Mol) -> str | None:
    """The first force field that has parameters for all atoms of a molecule with its hydrogens; any for a single atom."""
    if mol.GetNumAtoms() == 1:
        return MMFF
    with rdBase.BlockLogs():
        if rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
            return MMFF
        return UFF if rdForceFieldHelpers.UFFHasAllMoleculeParams(mol) else None


def _embed(mol: Chem.Mol, field: str, conformers: int, seed: int) -> Chem.Mol | None:
    """The lowest conformer by a force field."""
    parameters: Any = rdDistGeom.ETKDGv3()  # its stubs have the wrong types
    parameters.randomSeed = seed
    parameters.maxIterations = _MAX_ATTEMPTS
    with rdBase.BlockLogs():
        ids: list[int] = list(rdDistGeom.EmbedMultipleConfs(mol, conformers, parameters))
        if not ids:
            parameters.useRandomCoords = True
            ids = list(rdDistGeom.EmbedMultipleConfs(mol, conformers, parameters))
        if not ids:
            return None
        if mol.GetNumAtoms() == 1:
            energies = [(0, 0.0)] * len(ids)
        elif field == MMFF:
            energies = rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol, maxIters=_MAX_ITERATIONS, mmffVariant=MMFF)
        else:
            energies = rdForceFieldHelpers.UFFOptimizeMoleculeConfs(mol, maxIters=_MAX_ITERATIONS)
        best = min(ids, key=lambda i: energies[i][1])
    conformer = Chem.Conformer(mol.GetConformer(best))
    mol.RemoveAllConformers()
    mol.AddConformer(conformer, assignId=True)
    return mol
