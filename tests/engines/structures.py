"""Structures and models on which every engine must agree with the calculator."""

from typing import NamedTuple

import ase
import numpy as np
from ase.build import add_adsorbate, bulk, fcc111, molecule

import eqmol
from eqmol.models import Potential


def structures() -> dict[str, ase.Atoms]:
    """Molecules, slabs, wires and crystals of H, C, O and Cu, rattled, cells right-handed."""
    random = np.random.default_rng(3)
    slab = fcc111("Cu", (2, 2, 2), vacuum=6.0)
    covered = slab.copy()
    add_adsorbate(covered, molecule("CO"), 1.9, "ontop")
    sheared = bulk("Cu", cubic=True) * (2, 1, 1)
    sheared.set_cell(sheared.cell.array @ np.array([[1, 0.05, 0.02], [0, 1.02, 0.04], [0, 0, 0.97]]), scale_atoms=True)
    triclinic = ase.Atoms("COHCu", cell=[[5.4, 0.1, 0.3], [-1.9, 5.6, 0.3], [1.4, 1.7, 6.5]], pbc=True)
    triclinic.set_scaled_positions([[0, 0.1, 0], [0.45, 0.5, 0.4], [0.7, 0.1, 0.8], [0.1, 0.6, 0.9]])
    oxide = ase.Atoms("Cu4O2", cell=[4.3, 4.3, 4.3], pbc=True)
    oxide.set_scaled_positions(
        [[0.25, 0.25, 0.25], [0.75, 0.75, 0.25], [0.75, 0.25, 0.75], [0.25, 0.75, 0.75], [0, 0, 0], [0.5, 0.5, 0.5]]
    )
    found = {
        "atom": ase.Atoms("O", cell=[9, 9, 9], pbc=False),
        "molecule": molecule("CH3CH2OH", vacuum=4.0),
        "molecule in a box": molecule("H2O", vacuum=5.0),
        "slab": slab,
        "covered slab": covered,
        "slab in three directions": covered.copy(),
        "wire": bulk("Cu", cubic=True),
        "bulk": bulk("Cu", cubic=True) * 2,
        "primitive cell": bulk("Cu"),
        "oxide": oxide,
        "sheared": sheared,
        "triclinic": triclinic,
    }
    found["molecule in a box"].pbc = True
    found["slab in three directions"].pbc = True
    found["wire"].set_cell(np.diag([3.61, 12, 12]))
    found["wire"].pbc = (True, False, False)
    for atoms in found.values():
        atoms.positions += random.normal(size=atoms.positions.shape, scale=0.04)
        if not atoms.pbc.all():
            open_directions = ~atoms.pbc
            lift = 1.0 - atoms.positions.min(0)
            atoms.positions += np.where(open_directions, lift, 0.0)
    return found


class Reference(NamedTuple):
    """What the calculator says: eV, [N, 3] eV/Å, [3, 3] eV, [N] eV."""

    energy: float
    forces: np.ndarray
    virial: np.ndarray
    energies: np.ndarray


def reference(model: Potential, atoms: ase.Atoms) -> Reference:
    """The calculator's answer for the same structure in another order, with atoms in other cells."""
    random = np.random.default_rng(len(atoms))
    order = random.permutation(len(atoms))
    moved = atoms[order]
    moved.positions += (random.integers(-2, 3, size=(len(atoms), 3)) * atoms.pbc) @ atoms.cell.array
    moved.calc = eqmol.Calculator(model, close_contacts="warn")
    forces, energies = np.empty((len(atoms), 3)), np.empty(len(atoms))
    forces[order], energies[order] = moved.get_forces(), moved.get_potential_energies()
    virial = np.full((3, 3), np.nan)
    if atoms.pbc.all():
        virial = -moved.get_volume() * moved.get_stress(voigt=False)
    return Reference(moved.get_potential_energy(), forces, virial, energies)
