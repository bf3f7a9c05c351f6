"""Make the embedded sample in QM9's raw format: small molecules of H, C, N, O at the GFN2-xTB level.

Geometries: RDKit conformers relaxed with GFN2-xTB. Properties at the printed positions: orbital energies and dipole moment
as GFN2-xTB gives them; polarisability from dipole moments in electric fields; r2 from all electrons placed on their atoms;
thermochemistry of the ideal gas in the harmonic approximation, from a Hessian by finite differences, at 298.15 K.

Run `pip install -e ".[generate]"`, then `python data/qm9_sample/generate.py`: ten minutes of one core. Another folder may be
given as the argument.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before tblite is loaded: more threads are many times slower on a small molecule

import sys
import warnings
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.optimize import BFGS
from ase.thermochemistry import IdealGasThermo
from ase.vibrations import VibrationsData
from rdkit import Chem
from tblite import library
from tblite.ase import TBLite
from tblite.interface import Calculator

from eqmol.molecules.molecule import Molecule, from_smiles

HERE = Path(__file__).parent
COLUMNS = "A B C mu alpha homo lumo gap r2 zpve u0 u298 h298 g298 cv u0_atom u298_atom h298_atom g298_atom"
FMAX = 0.002  # eV/Å
STEP = 0.005  # Å, of the Hessian
FIELD = 1e-3  # atomic units
TEMPERATURE = 298.15  # K
PRESSURE = 101325.0  # Pa
ACCURACY = 0.01  # of the self-consistent field; tblite's own is 1
#: unpaired electrons + 1 in the ground state of the free atom
MULTIPLICITY = {1: 2, 6: 3, 7: 4, 8: 3}
GHZ = 1e-9 * units._hplanck / (8 * np.pi**2 * units._amu * 1e-20)  # amu Å² to GHz


def calculator(numbers: np.ndarray, positions: np.ndarray, uhf: int = 0) -> Calculator:
    """GFN2-xTB of a molecule, positions in Å."""
    calculator = Calculator("GFN2-xTB", numbers, np.asarray(positions) / units.Bohr, uhf=uhf)
    calculator.set("verbosity", 0)
    calculator.set("accuracy", ACCURACY)
    return calculator


def polarisability(atoms: Atoms) -> float:
    """Mean polarisability (a0³) from dipole moments in fields along the axes."""
    slopes = []
    for axis in range(3):
        moments = []
        for sign in (1.0, -1.0):
            field = np.zeros(3)
            field[axis] = sign * FIELD
            inner = calculator(atoms.numbers, atoms.positions)
            inner.add("electric-field", library.ffi.cast("double*", field.ctypes.data))
            moments.append(inner.singlepoint().get("dipole")[axis])
        slopes.append((moments[0] - moments[1]) / (2 * FIELD))
    return float(np.mean(slopes))


def hessian(atoms: Atoms) -> np.ndarray:
    """Second derivatives [N, 3, N, 3] (eV/Å²) of the energy by central differences of forces."""
    probe = atoms.copy()
    probe.calc = TBLite(method="GFN2-xTB", verbosity=0, accuracy=ACCURACY)
    rows = []
    for atom, axis in np.ndindex(len(atoms), 3):
        forces = []
        for sign in (1.0, -1.0):
            probe.positions = atoms.positions
            probe.positions[atom, axis] += sign * STEP
            forces.append(probe.get_forces())
        rows.append((forces[1] - forces[0]) / (2 * STEP))
    matrix = np.array(rows).reshape(3 * len(atoms), 3 * len(atoms))
    return ((matrix + matrix.T) / 2).reshape(len(atoms), 3, len(atoms), 3)


def free_atom(number: int) -> float:
    """Energy (eV) of a free atom."""
    inner = calculator(np.array([number]), np.zeros((1, 3)), MULTIPLICITY[number] - 1)
    return inner.singlepoint().get("energy") * units.Hartree


def relax(molecule: Molecule) -> Atoms:
    """The molecule in its nearest minimum, positions as they will be printed."""
    atoms = molecule.atoms()
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0, accuracy=ACCURACY)
    BFGS(atoms, logfile=None).run(fmax=FMAX, steps=500)
    return Atoms(numbers=atoms.numbers, positions=np.round(atoms.positions, 4))


def row(atoms: Atoms, references: dict[int, float]) -> list[float] | None:
    """The values of QM9's columns in its units; None for a structure that is no minimum."""
    results = calculator(atoms.numbers, atoms.positions).singlepoint()
    occupied = int((results.get("orbital-occupations") > 1).sum())
    homo, lumo = results.get("orbital-energies")[occupied - 1 : occupied + 1]
    mass = atoms.numbers.astype(float)
    arms = (atoms.positions - mass @ atoms.positions / mass.sum()) / units.Bohr
    extent = (mass - results.get("charges")) @ np.square(arms).sum(axis=1)
    moments = np.sort(atoms.get_moments_of_inertia())
    linear = moments[0] < 1e-3
    energies = VibrationsData(atoms, hessian(atoms)).get_energies()
    modes = energies[5 if linear else 6 :]
    if np.iscomplex(modes).any():
        return None
    electronic = results.get("energy") * units.Hartree
    gas = IdealGasThermo(modes.real, "linear" if linear else "nonlinear", electronic, atoms, symmetrynumber=1, spin=0)
    zpve = gas.get_ZPE_correction()
    inner, above, below = (gas.get_internal_energy(TEMPERATURE + d, verbose=False) for d in (0.0, 1.0, -1.0))
    enthalpy = gas.get_enthalpy(TEMPERATURE, verbose=False)
    free = gas.get_gibbs_energy(TEMPERATURE, PRESSURE, verbose=False)
    thermal = [electronic + zpve, inner, enthalpy, free]
    # translation, and pV, of free atoms
    kt, atoms_energy = units.kB * TEMPERATURE, sum(references[int(z)] for z in atoms.numbers)
    shifts = np.array([0.0, 1.5 * kt, 2.5 * kt, 2.5 * kt]) * len(atoms)
    atomization = np.array(thermal) - atoms_energy - shifts
    hartree = [homo, lumo, lumo - homo]
    return [
        *([0.0] if linear else [GHZ / moments[0]]),
        *(GHZ / moments[1:]),
        float(np.linalg.norm(results.get("dipole"))) * units.Bohr / units.Debye,
        polarisability(atoms),
        *hartree,
        extent,
        zpve / units.Hartree,
        *(energy / units.Hartree for energy in thermal),
        (above - below) / 2 / (units.kcal / units.mol) * 1000,
        *(atomization / (units.kcal / units.mol)),
    ]


def record(number: int, molecule: Molecule, atoms: Atoms) -> str:
    """One entry of the SDF."""
    kekule = Chem.Mol(molecule.mol)
    Chem.Kekulize(kekule, clearAromaticFlags=True)
    bonds = list(kekule.GetBonds())
    lines = [
        f"gdb_{number}",
        "     eqmol          3D",
        "",
        f"{len(atoms):3}{len(bonds):3}  0  0  0  0  0  0  0  0999 V2000",
    ]
    for symbol, (x, y, z) in zip(atoms.symbols, atoms.positions, strict=True):
        lines.append(f"{x:10.4f}{y:10.4f}{z:10.4f} {symbol:<3} 0  0  0  0  0  0  0  0  0  0  0  0")
    for bond in bonds:
        ends = bond.GetBeginAtomIdx() + 1, bond.GetEndAtomIdx() + 1
        lines.append(f"{ends[0]:3}{ends[1]:3}{int(bond.GetBondTypeAsDouble()):3}  0")
    return "\n".join([*lines, "M  END", "$$$$", ""])


def main(folder: Path) -> None:
    """Write gdb9.sdf, gdb9.sdf.csv and uncharacterized.txt."""
    warnings.simplefilter("ignore")
    references = {number: free_atom(number) for number in MULTIPLICITY}
    records, rows = [], ["mol_id," + COLUMNS.replace(" ", ",")]
    for number, smiles in enumerate((HERE / "smiles.txt").read_text().split(), start=1):
        molecule = from_smiles(smiles, conformers=5)
        assert isinstance(molecule, Molecule), molecule
        atoms = relax(molecule)
        values = row(atoms, references)
        if values is None:
            print(f"{smiles}: not a minimum, left out")
            continue
        records.append(record(number, molecule, atoms))
        rows.append(f"gdb_{number}," + ",".join(f"{value:.8g}" for value in values))
    (folder / "gdb9.sdf").write_text("".join(records))
    (folder / "gdb9.sdf.csv").write_text("\n".join(rows) + "\n")
    (folder / "uncharacterized.txt").write_text("None of the molecules of this sample is uncharacterized.\n")
    print(f"{len(records)} molecules")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
