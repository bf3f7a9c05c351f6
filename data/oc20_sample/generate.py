"""Make the embedded sample: relaxations of adsorbates on metal slabs with EMT labels, in the S2EF files of OC20.

As in OC20, the layers below the surface are fixed, every step of the optimiser is a frame, and a frame's reference is the
energy of the relaxed clean slab plus that of the adsorbate's atoms in reference molecules. Labels are computed at the
positions as they are printed. Run `python data/oc20_sample/generate.py [FOLDER]`: a minute of one core.
"""

import lzma
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc100, fcc111, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

#: shard -> (metal of the slab, metal of two surface atoms instead, facet, adsorbate); every element is in several systems
SYSTEMS = {
    "emt_0": [
        ("Cu", "Pd", fcc111, "CO"), ("Pt", "Ni", fcc111, "OH"), ("Pd", "Ag", fcc100, "NO"), ("Ni", "Cu", fcc111, "H"),
        ("Ag", "Au", fcc111, "O"), ("Au", "Al", fcc100, "CH"), ("Al", "Pt", fcc111, "N"), ("Cu", "Ni", fcc100, "NH"),
        ("Pt", "Cu", fcc100, "C"), ("Pd", "Au", fcc111, "OH"),
    ],
    "emt_1": [
        ("Ni", "Al", fcc100, "CO"), ("Ag", "Pd", fcc100, "NH"), ("Au", "Ag", fcc111, "CO"), ("Al", "Ni", fcc100, "O"),
        ("Cu", "Au", fcc111, "NO"), ("Pt", "Pd", fcc111, "CH"), ("Pd", "Pt", fcc100, "H"), ("Ni", "Ag", fcc111, "N"),
        ("Ag", "Cu", fcc100, "OH"), ("Au", "Pt", fcc111, "NH"),
    ],
}  # fmt: skip
LAYERS, VACUUM = 3, 6.0  # Å above and below
STEPS, FMAX = 16, 0.03  # most steps of a relaxation; eV/Å at which it ends
REFERENCES = {"H": "H2", "N": "N2", "C": "CO", "O": "H2O"}  # molecules that the energies of atoms come from


def relaxed_energy(atoms: Atoms) -> float:
    """Return the energy (eV) of a structure after relaxation, which changes its positions."""
    atoms.calc = EMT()
    BFGS(atoms, logfile=None).run(fmax=0.01, steps=200)
    return float(atoms.get_potential_energy())


def atomic_references() -> dict[str, float]:
    """Return the energy (eV) of each adsorbate element in OC20's combinations of molecules."""
    energy = {name: relaxed_energy(molecule(name)) for name in REFERENCES.values()}
    hydrogen, oxygen = energy["H2"] / 2, energy["H2O"] - energy["H2"]
    return {"H": hydrogen, "N": energy["N2"] / 2, "O": oxygen, "C": energy["CO"] - oxygen}


def lattice_constant(metal: str) -> float:
    """Return EMT's lattice constant of a metal, Å."""
    crystal = bulk(metal, "fcc", cubic=True)
    crystal.calc = EMT()
    BFGS(FrechetCellFilter(crystal), logfile=None).run(fmax=1e-3, steps=100)
    return float(crystal.cell.lengths()[0])


def slab(metal: str, other: str, facet, rng: np.random.Generator) -> Atoms:
    """Return a slab with two other atoms in its surface, the lower layers fixed; tags 0 and 1."""
    atoms = facet(metal, (2, 2, LAYERS), a=lattice_constant(metal), vacuum=VACUUM, periodic=True)
    surface = atoms.get_tags() == 1  # ASE counts layers from the top
    atoms.symbols[rng.choice(np.flatnonzero(surface), 2, replace=False)] = other
    atoms.set_tags(surface.astype(int))
    atoms.set_constraint(FixAtoms(mask=~surface))
    return atoms


def relaxation(clean: Atoms, adsorbate: str, rng: np.random.Generator) -> Iterator[Atoms]:
    """Yield the steps of a relaxation from a random place above the surface."""
    atoms = clean.copy()
    guest = Atoms(adsorbate) if len(adsorbate) == 1 else molecule(adsorbate)
    if len(guest) > 1:  # the first atom of the name down
        guest = guest[np.argsort([adsorbate.index(symbol) for symbol in guest.symbols])]
        guest.rotate(guest.positions[1] - guest.positions[0], "z")
    guest.rattle(0.1, rng=rng)
    add_adsorbate(atoms, guest, height=1.6, position=tuple(atoms.cell.array[:2, :2].T @ rng.random(2)))
    atoms.set_tags([*clean.get_tags(), *[2] * len(guest)])
    atoms.calc = EMT()
    for _ in BFGS(atoms, logfile=None, maxstep=0.1).irun(fmax=FMAX, steps=STEPS):
        yield atoms.copy()


def labelled_frame(atoms: Atoms) -> str:
    """Return one frame as text: energies in eV, forces on all atoms in eV/Å."""
    free = np.ones(len(atoms), bool)
    free[atoms.constraints[0].index] = False
    atoms = Atoms(
        atoms.symbols, np.round(atoms.positions, 6), cell=np.round(atoms.cell, 6), pbc=True, tags=atoms.get_tags()
    )
    atoms.calc = EMT()
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    cell = " ".join(f"{x:.6f}" for x in atoms.cell.array.flat)
    lines = [
        str(len(atoms)),
        f'Lattice="{cell}" Properties=species:S:1:pos:R:3:move_mask:L:1:tags:I:1:forces:R:3 '
        f'energy={energy:.8f} free_energy={energy:.8f} pbc="T T T"',
    ]
    for symbol, position, mask, tag, force in zip(
        atoms.symbols, atoms.positions, free, atoms.get_tags(), forces, strict=True
    ):
        numbers = [f"{x:.6f}" for x in position]
        lines.append(" ".join([symbol, *numbers, "T" if mask else "F", str(tag), *(f"{x:.8f}" for x in force)]))
    return "\n".join(lines) + "\n"


def main(folder: Path) -> None:
    """Write both shards into ``folder``."""
    reference_of = atomic_references()
    system = 0
    for name, systems in SYSTEMS.items():
        frames, labels = [], []
        for metal, other, facet, adsorbate in systems:
            rng = np.random.default_rng(system)
            clean = slab(metal, other, facet, rng)
            reference = relaxed_energy(clean.copy()) + sum(reference_of[symbol] for symbol in Atoms(adsorbate).symbols)
            for number, atoms in enumerate(relaxation(clean, adsorbate, rng)):
                frames.append(labelled_frame(atoms))
                labels.append(f"emt{system},frame{number},{reference:.8f}\n")
            system += 1
        (folder / f"{name}.extxyz.xz").write_bytes(lzma.compress("".join(frames).encode(), preset=9))
        (folder / f"{name}.txt").write_text("".join(labels))
        print(f"{name}: {len(frames)} frames of {len(systems)} systems")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
