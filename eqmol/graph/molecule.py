"""Molecules from SMILES and from files of chemists, with their structure in space, by RDKit.

Conformers: ETKDGv3 (Wang et al. 2020, doi 10.1021/acs.jcim.0c00025) from a fixed seed, minimised by MMFF94s, the lowest of
several.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ase
import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from eqmol.errors import InputError

#: Endings of files that :func:`read_molecules` reads.
ENDINGS = (".sdf", ".mol2", ".smi")
_MAX_ATTEMPTS = 50
_MAX_ITERATIONS = 2000


class Molecule(NamedTuple):
    """A molecule with one conformer.

    Attributes:
        name: as its file has it, else its SMILES.
        source: where it comes from, for messages.
        mol: with hydrogens and coordinates in Å.
    """

    name: str
    source: str
    mol: Chem.Mol

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
        return self._replace(mol=mol)


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
    if in_space:
        hydrogens = sum(atom.GetTotalNumHs() for atom in mol.GetAtoms())
        return Molecule(name, source, Chem.AddHs(mol, addCoords=True) if hydrogens else mol)
    embedded = _embed(Chem.AddHs(mol), conformers, seed)
    if embedded is None:
        return Failure(name, source, "RDKit finds no structure in space for it")
    return Molecule(name, source, embedded)


def _embed(mol: Chem.Mol, conformers: int, seed: int) -> Chem.Mol | None:
    """The lowest conformer by MMFF94s; the first one where MMFF lacks parameters."""
    parameters: Any = rdDistGeom.ETKDGv3()  # its stubs have the wrong types
    parameters.randomSeed = seed
    parameters.maxIterations = _MAX_ATTEMPTS
    with rdBase.BlockLogs():
        ids: Iterable[int] = list(rdDistGeom.EmbedMultipleConfs(mol, conformers, parameters))
        if not ids:
            parameters.useRandomCoords = True
            ids = list(rdDistGeom.EmbedMultipleConfs(mol, conformers, parameters))
        if not ids:
            return None
        best = min(ids)
        if rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
            energies = rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(
                mol, maxIters=_MAX_ITERATIONS, mmffVariant="MMFF94s"
            )
            best = min(ids, key=lambda i: energies[i][1])
    conformer = Chem.Conformer(mol.GetConformer(best))
    mol.RemoveAllConformers()
    mol.AddConformer(conformer, assignId=True)
    return mol
