"""Molecules from SMILES and from files of chemists, with their structure in space, by RDKit.

Conformers: ETKDGv3 (Wang et al. 2020, doi 10.1021/acs.jcim.0c00025) from a fixed seed, the lowest of several after
minimisation by MMFF94s (Halgren 1999, doi 10.1002/(SICI)1096-987X(199905)20:7<720::AID-JCC7>3.0.CO;2-X), or by UFF (Rappé et
al. 1992, doi 10.1021/ja00051a040) where MMFF94s lacks parameters, as for boron, selenium and metals.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import ase
import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers
from rdkit.Chem.Scaffolds import MurckoScaffold

from eqmol.errors import InputError, printable, reason_of
from eqmol.files import MAX_LINE, Text, check_file, ending
from eqmol.molecules.cache import ConformerCache

#: Endings of files that :func:`read_molecules` reads.
ENDINGS = (".sdf", ".mol", ".mol2", ".smi")
MMFF, UFF = "MMFF94s", "UFF"
#: Atoms of a molecule, with the hydrogens that its record has; algorithms on its rings and paths recurse.
MAX_ATOMS = 2000
_MAX_SMILES = 5000  #: characters
_MAX_NAME = 200
_MAX_ATTEMPTS = 50
_MAX_ITERATIONS = 2000
_NO_TAGS: Mapping[str, str] = MappingProxyType({})


class Molecule(NamedTuple):
    """A molecule with one conformer.

    Attributes:
        name: as its file has it, else its SMILES.
        source: where it comes from, for messages.
        mol: with hydrogens and coordinates in Å.
        structure: where the coordinates come from: "given", with the number of hydrogens that were added, or the force field
            that minimised a conformer.
        tags: data of its record in an .sdf, or cells of its row in a table, by name, as they are written.
    """

    name: str
    source: str
    mol: Chem.Mol
    structure: str = "given"
    tags: Mapping[str, str] = _NO_TAGS

    @property
    def smiles(self) -> str:
        """Canonical SMILES without hydrogens."""
        return Chem.MolToSmiles(Chem.RemoveHs(self.mol))

    @property
    def skeleton(self) -> str:
        """Canonical SMILES without hydrogens, stereochemistry and isotopes: the same for all ways to write a molecule."""
        return Chem.MolToSmiles(self._plain(), isomericSmiles=False)

    @property
    def scaffold(self) -> str:
        """SMILES of its rings and the chains between them (Bemis and Murcko 1996, doi 10.1021/jm9602928); "" without rings."""
        return MurckoScaffold.MurckoScaffoldSmiles(mol=self._plain(), includeChirality=False)

    def _plain(self) -> Chem.Mol:
        """Without isotopes and hydrogens."""
        mol = Chem.Mol(self.mol)
        for atom in mol.GetAtoms():
            atom.SetIsotope(0)
        return Chem.RemoveHs(mol)

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


class _Conformers(NamedTuple):
    """How many conformers are tried, from which seed, and where the best ones are kept."""

    number: int
    seed: int
    cache: ConformerCache | None

    def of(self, mol: Chem.Mol, field: str, text: str) -> Chem.Mol | None:
        """A molecule with the lowest conformer by a force field; ``text`` tells molecules apart, with the order of atoms."""
        if self.cache is None:
            positions = _embed(mol, field, self.number, self.seed)
        else:
            settings = [text, field, self.number, self.seed, _MAX_ATTEMPTS, _MAX_ITERATIONS, rdBase.rdkitVersion]
            shape = (mol.GetNumAtoms(), 3)
            positions = self.cache.get(settings, shape, lambda: _embed(mol, field, self.number, self.seed))
        if positions is None:
            return None
        conformer = Chem.Conformer(mol.GetNumAtoms())
        conformer.Set3D(True)
        conformer.SetPositions(positions)
        mol.RemoveAllConformers()
        mol.AddConformer(conformer, assignId=True)
        return mol


def read_molecules(
    path: str | Path, conformers: int = 10, seed: int = 0, cache: ConformerCache | None = None
) -> Iterator[Molecule | Failure]:
    """Read the molecules of an .sdf, .mol, .mol2 or .smi file; those without coordinates in space get a conformer.

    The file may be compressed and in any encoding that :class:`eqmol.files.Text` knows. A record that cannot be read is a
    failure and costs no other.

    Args:
        path: one molecule per record; a line of a .smi file is a SMILES and, after a blank, a name.
        conformers: how many are tried.
        seed: of the conformers.
        cache: where conformers are looked up and kept.

    Raises:
        InputError: the file is absent, empty, or of another kind.
    """
    path = Path(path)
    if ending(path) not in ENDINGS:
        raise InputError(f"{path} is none of {', '.join(ENDINGS)}")
    check_file(path)
    found = {".mol2": _from_mol2, ".smi": _from_smi}.get(ending(path), _from_sdf)(
        path, _Conformers(conformers, seed, cache)
    )
    count = 0
    for count, entry in enumerate(found, start=1):  # noqa: B007  read after the loop
        yield entry
    if count == 0:
        raise InputError(f"{path} has no molecules")


def from_smiles(
    smiles: str,
    name: str = "",
    source: str = "",
    conformers: int = 10,
    seed: int = 0,
    cache: ConformerCache | None = None,
) -> Molecule | Failure:
    """Turn a SMILES into a molecule in space, the same one every time.

    Args:
        smiles: of one molecule.
        name: the SMILES itself if empty.
        source: for messages; the SMILES itself if empty.
        conformers, seed, cache: as of :func:`read_molecules`.
    """
    name, source = name or printable(smiles), source or printable(smiles)
    if len(smiles) > _MAX_SMILES:
        return Failure(name, source, f"it is a SMILES of {len(smiles)} characters; up to {_MAX_SMILES} are read")
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles, sanitize=False)
    if mol is None or mol.GetNumAtoms() == 0:
        return Failure(name, source, f"{printable(smiles)!r} is not a SMILES")
    return _complete(mol, name, source, _Conformers(conformers, seed, cache), smiles)


def _from_smi(path: Path, conformers: _Conformers) -> Iterator[Molecule | Failure]:
    for line, source, problem in _lines(path):
        smiles, name = (*line.split(maxsplit=1), "", "")[:2]
        if problem:
            yield Failure(printable(name.strip() or smiles, 60), source, f"the line {problem}")
        elif smiles and not line.startswith("#"):
            yield from_smiles(smiles, name.strip(), source, *conformers)


def _from_sdf(path: Path, conformers: _Conformers) -> Iterator[Molecule | Failure]:
    for index, (block, problem) in enumerate(_blocks(path, end="$$$$")):
        mol = None
        if not problem:
            with rdBase.BlockLogs():
                mol = Chem.MolFromMolBlock(block, sanitize=False, removeHs=False)
        found = _from_record(mol, block, problem, path, index, conformers)
        yield found._replace(tags=_tags(block)) if isinstance(found, Molecule) else found


def _from_mol2(path: Path, conformers: _Conformers) -> Iterator[Molecule | Failure]:
    for index, (block, problem) in enumerate(_blocks(path, begin="@<TRIPOS>MOLECULE")):
        mol = None
        if not problem:
            with rdBase.BlockLogs():
                mol = Chem.MolFromMol2Block(block, sanitize=False, removeHs=False)
        title = block.partition("\n")[2].lstrip()
        yield _from_record(mol, title, problem, path, index, conformers)


def _tags(block: str) -> dict[str, str]:
    """Data after the structure of a record: lines ``> <name>``, each with its value up to an empty line."""
    tags: dict[str, str] = {}
    lines = iter(block.partition("M  END")[2].splitlines())
    for line in lines:
        if line.startswith(">") and (found := re.search("<(.*)>", line)) is not None:
            tags[found[1]] = "\n".join(takewhile(str.strip, lines)).strip()
    return tags


def _lines(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield each line, its place, and why it cannot be used, or ""; what ends the reading is the problem of the last one."""
    with Text(path) as file:
        while True:
            try:
                line, problem = file.record_line()
            except Exception as error:  # compressed bytes of any content
                reason = str(error) if isinstance(error, InputError) else reason_of(error)
                yield "", f"{path}, line {file.line + 1}", f"cannot be read ({reason}), nor what follows"
                return
            if not line:
                return
            yield line, f"{path}, line {file.line}", problem


def _blocks(path: Path, begin: str = "", end: str = "") -> Iterator[tuple[str, str]]:
    """Yield each record, from lines that begin or up to lines that end one, and why it cannot be used, or ""."""
    lines: list[str] = []
    size, problem = 0, ""

    def record() -> Iterator[tuple[str, str]]:
        if problem or any(not line.isspace() for line in lines):
            yield "".join(lines), problem

    before = bool(begin)  # what comes before the first record is none
    for line, _, wrong in _lines(path):
        if (begin and line.startswith(begin)) or (end and line.startswith(end)):
            if not before:
                yield from record()
            lines, size, problem, before = [], 0, "", False
            if end:
                continue
        size += len(line)
        problem = problem or (wrong and f"one of its lines {wrong}")
        if size > MAX_LINE:
            problem = problem or f"it has more than {MAX_LINE} characters"
        elif not before or wrong:
            lines.append(line)
    if not before or problem:
        yield from record()


def _from_record(
    mol: Chem.Mol | None, text: str, problem: str, path: Path, index: int, conformers: _Conformers
) -> Molecule | Failure:
    source = f"{path}, molecule {index + 1}"
    title = text.partition("\n")[0].strip()
    name = (printable(title) if problem else title[:_MAX_NAME]) or f"{path.name.split('.')[0]}_{index + 1}"
    if problem or mol is None or mol.GetNumAtoms() == 0:
        return Failure(name, source, f"the record cannot be read{problem and ': '}{problem}")
    record = text.partition("\n")[2].partition("M  END")[0]  # without its title and its data
    return _complete(mol, name, source, conformers, record)


def _complete(mol: Chem.Mol, name: str, source: str, conformers: _Conformers, text: str) -> Molecule | Failure:
    """Sanitise, refuse what has no meaning as one neutral molecule, and give it a structure if it has none."""
    if mol.GetNumAtoms() > MAX_ATOMS:
        return Failure(name, source, f"it has {mol.GetNumAtoms()} atoms; molecules of up to {MAX_ATOMS} are read")
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
    embedded = conformers.of(mol, field, text)
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


def _embed(mol: Chem.Mol, field: str, conformers: int, seed: int) -> NDArray[np.float64] | None:
    """Positions [N, 3] of the lowest conformer by a force field."""
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
    return np.array(mol.GetConformer(best).GetPositions())
