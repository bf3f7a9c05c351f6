"""Make the embedded sample: 3-(benzyloxy)pyridin-2-amine at the GFN2-xTB level, in the file format of 3BPA.

Langevin dynamics from several conformers; every file comes from trajectories of its own. Labels are computed afresh,
with a tight self-consistent field, at the positions as they are printed. Run `pip install -e ".[generate]"`, then
`python data/sample/generate.py`: five minutes of one core. Another folder may be given as the argument.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before tblite is loaded: more threads are many times slower on a small molecule

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.velocitydistribution import thermalize_momenta
from rdkit import Chem
from rdkit.Chem import AllChem
from tblite.ase import TBLite

SMILES = "Nc1ncccc1OCc1ccccc1"
#: file -> (temperature in K, number of trajectories, frames from each)
FILES = {"train_300K.xyz": (300, 6, 50), "test_300K.xyz": (300, 2, 25), "test_600K.xyz": (600, 2, 25)}
WINDOW = 5.0  # kcal/mol above the lowest conformer
TIMESTEP = 1.0  # fs
RELAXATION = 50.0  # fs, time constant of the thermostat
EQUILIBRATION = 500  # steps before the first frame
INTERVAL = 25  # steps between frames
#: unpaired electrons + 1 in the ground state of the free atom
MULTIPLICITY = {"H": 2, "C": 3, "N": 4, "O": 3}


def conformers(count: int) -> list[Atoms]:
    """Return the low conformers in MMFF energy, lowest first, repeated until there are ``count``."""
    molecule = Chem.AddHs(Chem.MolFromSmiles(SMILES))
    AllChem.EmbedMultipleConfs(molecule, numConfs=60, randomSeed=42)
    energies = [energy for _, energy in AllChem.MMFFOptimizeMoleculeConfs(molecule, maxIters=2000)]
    chosen: list[int] = []
    for i in np.argsort(energies):
        # equal energies are one conformer, or its mirror image
        if energies[i] < min(energies) + WINDOW and all(abs(energies[i] - energies[j]) > 1e-2 for j in chosen):
            chosen.append(int(i))
    symbols = [atom.GetSymbol() for atom in molecule.GetAtoms()]
    positions = [molecule.GetConformer(i).GetPositions() for i in chosen]
    return [Atoms(symbols, positions=positions[i % len(positions)]) for i in range(count)]


def trajectory(start: Atoms, temperature: float, frames: int, seed: int) -> Iterator[np.ndarray]:
    """Yield positions [N, 3] (Å, centred) of one Langevin trajectory."""
    rng = np.random.default_rng(seed)
    atoms = start.copy()
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    thermalize_momenta(atoms, temperature_K=temperature, rng=rng)
    dynamics = LangevinBAOAB(
        atoms, TIMESTEP * units.fs, temperature_K=temperature, T_tau=RELAXATION * units.fs, rng=rng
    )
    dynamics.run(EQUILIBRATION)
    for _ in range(frames):
        dynamics.run(INTERVAL)
        yield atoms.positions - atoms.get_center_of_mass()


def labelled_frame(symbols: list[str], positions: np.ndarray) -> str:
    """Return one frame as text: energy in eV, forces in eV/Å, the dummy cell of 3BPA."""
    positions = np.round(positions, 8)
    atoms = Atoms(symbols, positions=positions)
    atoms.calc = TBLite(method="GFN2-xTB", accuracy=0.01, verbosity=0)
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    lines = [
        str(len(atoms)),
        'Lattice="50.0 0.0 0.0 0.0 50.0 0.0 0.0 0.0 50.0" Properties=species:S:1:pos:R:3:forces:R:3 '
        f'energy={energy:.10f} pbc="F F F"',
    ]
    for symbol, numbers in zip(symbols, np.hstack([positions, forces]), strict=True):
        lines.append(" ".join([symbol, *(f"{number:.8f}" for number in numbers)]))
    return "\n".join(lines) + "\n"


def isolated_atom(symbol: str) -> str:
    """Return the frame of a free atom in its ground-state multiplicity."""
    atoms = Atoms(symbol)
    atoms.calc = TBLite(method="GFN2-xTB", accuracy=0.01, multiplicity=MULTIPLICITY[symbol], verbosity=0)
    energy = atoms.get_potential_energy()
    return f'1\nProperties=species:S:1:pos:R:3 energy={energy:.10f} pbc="F F F"\n{symbol} 0.0 0.0 0.0\n'


def main(folder: Path) -> None:
    """Write every file of the sample into ``folder``."""
    (folder / "iso_atoms.xyz").write_text("".join(isolated_atom(symbol) for symbol in ("C", "H", "N", "O")))
    starts = iter(conformers(sum(count for _, count, _ in FILES.values())))
    seed = 0
    for name, (temperature, count, frames) in FILES.items():
        text = []
        for _ in range(count):
            start = next(starts)
            seed += 1
            for positions in trajectory(start, temperature, frames, seed):
                text.append(labelled_frame(start.get_chemical_symbols(), positions))
        (folder / name).write_text("".join(text))
        print(f"{name}: {len(text)} frames")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
