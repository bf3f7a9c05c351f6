"""Single points of installed engines, to be compared with the calculator."""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import ase
import numpy as np
from ase.calculators.lammps import Prism
from ase.data import covalent_radii
from ase.io import write
from ase.stress import voigt_6_to_full_3x3_stress
from numpy.typing import NDArray

from eqmol.errors import InputError
from eqmol.inference.calculator import Calculator
from eqmol.models import Potential

Array = NDArray[np.float64]
#: eV bar Å³ as LAMMPS converts them in units metal.
LAMMPS_BAR = 1.6021765e6


class SinglePoint(NamedTuple):
    """What an engine says of a structure.

    Attributes:
        energy: eV.
        forces: [N, 3] eV/Å.
        virial: [3, 3] eV; None where the structure or the engine has none.
    """

    energy: float
    forces: Array
    virial: Array | None


class Difference(NamedTuple):
    """Largest differences between two single points: energy (eV), forces (eV/Å), virial (eV)."""

    energy: float
    forces: float
    virial: float


def by_calculator(model: Potential, atoms: ase.Atoms) -> SinglePoint:
    """The calculator's single point."""
    atoms = atoms.copy()
    atoms.calc = Calculator(model, verify=False, close_contacts="warn")
    virial = -atoms.get_volume() * atoms.get_stress(voigt=False) if atoms.pbc.all() else None
    return SinglePoint(atoms.get_potential_energy(), atoms.get_forces(), virial)


def by_lammps(model: Potential, atoms: ase.Atoms) -> SinglePoint:
    """LAMMPS' single point, in this process; the cell must be three linearly independent vectors, right-handed."""
    from eqmol.engines.lammps import LammpsPotential, lammps

    prism = Prism(atoms.cell.array, pbc=atoms.pbc)
    positions = prism.vector_to_lammps(atoms.positions, wrap=True)
    elements = sorted(set(atoms.get_chemical_symbols()))
    lx, ly, lz, xy, xz, yz = prism.get_lammps_prism()
    lmp = lammps(cmdargs=["-screen", "none", "-log", "none"])
    try:
        sides = " ".join("p" if periodic else "s" for periodic in atoms.pbc)
        lmp.commands_list(
            [
                "units metal",
                f"boundary {sides}",
                f"region box prism 0 {lx} 0 {ly} 0 {lz} {xy} {xz} {yz}",
                f"create_box {len(elements)} box",
                "mass * 1.0",
            ]
        )
        types = [elements.index(symbol) + 1 for symbol in atoms.get_chemical_symbols()]
        lmp.create_atoms(len(atoms), [*range(1, len(atoms) + 1)], types, positions.ravel().tolist())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the masses, which a single point does not know
            LammpsPotential(lmp, model, elements, verify=False, close_contacts="warn")
        lmp.commands_list(["thermo_style custom pe pxx pyy pzz pyz pxz pxy vol", "run 0"])
        found = [lmp.get_thermo(name) for name in ("pe", "pxx", "pyy", "pzz", "pyz", "pxz", "pxy", "vol")]
        forces = np.array(lmp.gather_atoms("f", 1, 3)).reshape(-1, 3)
    finally:
        lmp.close()
    virial = None
    if atoms.pbc.all():
        virial = voigt_6_to_full_3x3_stress(np.array(found[1:7])) * found[7] / LAMMPS_BAR
        virial = prism.vector_to_ase(prism.vector_to_ase(virial).T)
    return SinglePoint(found[0], prism.vector_to_ase(forces), virial)


def by_ipi(model: Potential, atoms: ase.Atoms) -> SinglePoint:
    """The answer of i-PI's driver to a request, in eV and Å again."""
    from ipi.utils.units import unit_to_internal, unit_to_user

    from eqmol.checkpoint import save
    from eqmol.engines.ipi_driver import EqmolDriver

    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder) / "model.safetensors")
        write(Path(folder) / "template.xyz", ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc))
        driver = EqmolDriver(
            str(Path(folder) / "model.safetensors"), str(Path(folder) / "template.xyz"), close_contacts="warn"
        )
    cell = unit_to_internal("length", "angstrom", atoms.cell.array.T)
    energy, forces, virial, _ = driver(cell, unit_to_internal("length", "angstrom", atoms.positions))
    return SinglePoint(
        float(unit_to_user("energy", "electronvolt", energy)),
        np.asarray(unit_to_user("force", "ev/ang", forces)),
        np.asarray(unit_to_user("energy", "electronvolt", virial)).T if atoms.pbc.all() else None,
    )


def by_openmm(model: Potential, atoms: ase.Atoms) -> SinglePoint:
    """OpenMM's single point; it knows structures that are periodic in three directions or in none."""
    import openmm
    from openmm import app, unit
    from openmmml import MLPotential

    if atoms.pbc.any() and not atoms.pbc.all():
        raise InputError("OpenMM knows structures that are periodic in three directions or in none")
    topology = app.Topology()
    residue = topology.addResidue("X", topology.addChain())
    for symbol in atoms.get_chemical_symbols():
        topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)
    prism = Prism(atoms.cell.array, pbc=atoms.pbc, reduce_cell=True) if atoms.pbc.all() else None
    positions = atoms.positions
    if prism is not None:
        positions = prism.vector_to_lammps(atoms.positions)
        lx, ly, lz, xy, xz, yz = prism.get_lammps_prism()
        box = [openmm.Vec3(*row) for row in ((lx, 0, 0), (xy, ly, 0), (xz, yz, lz))]
        topology.setPeriodicBoxVectors(box * unit.angstrom)
    calculator = Calculator(model, verify=False, close_contacts="warn")
    system = MLPotential("ase").createSystem(topology, calculator=calculator)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions * unit.angstrom)
    state = context.getState(energy=True, forces=True)
    per_mole = ase.units.kJ / ase.units.mol
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) * per_mole
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.angstrom) * per_mole
    return SinglePoint(float(energy), forces if prism is None else forces @ prism.rot_mat.T, None)


def by_torch_sim(model: Potential, atoms: ase.Atoms) -> SinglePoint:
    """torch-sim's single point, of two copies of the structure; this version knows one periodicity for all directions."""
    import torch
    import torch_sim

    from eqmol.engines.torch_sim import TorchSimModel

    if atoms.pbc.any() and not atoms.pbc.all():
        raise InputError("this adapter knows structures that are periodic in three directions or in none")
    state = torch_sim.io.atoms_to_state([atoms, atoms], torch.device("cpu"), torch.float64)
    found = TorchSimModel(model, verify=False, close_contacts="warn")(state)
    virial = -atoms.get_volume() * found["stress"][1].numpy() if atoms.pbc.all() else None
    return SinglePoint(float(found["energy"][1]), found["forces"][len(atoms) :].numpy(), virial)


SINGLE_POINTS: dict[str, Callable[[Potential, ase.Atoms], SinglePoint]] = {
    "lammps": by_lammps,
    "i-pi": by_ipi,
    "openmm": by_openmm,
    "torch-sim": by_torch_sim,
}


def difference(one: SinglePoint, other: SinglePoint) -> Difference:
    """The largest differences; those of virials are 0 where one has none."""
    virial = 0.0
    if one.virial is not None and other.virial is not None:
        virial = float(np.abs(one.virial - other.virial).max())
    return Difference(abs(one.energy - other.energy), float(np.abs(one.forces - other.forces).max()), virial)


def trial_structure(model: Potential) -> ase.Atoms:
    """Eight atoms of a model's elements, about as far apart as bonds, in a sheared periodic cell."""
    numbers = np.resize(model.elements, 8)
    spacing = 2.2 * max(float(covalent_radii[z]) for z in numbers)
    cell = 2 * spacing * np.array([[1.0, 0.0, 0.0], [0.05, 1.02, 0.0], [0.02, 0.04, 0.98]])
    sites = np.array(list(np.ndindex(2, 2, 2))) / 2 + np.random.default_rng(0).uniform(-0.03, 0.03, (8, 3))
    return ase.Atoms(numbers, scaled_positions=sites + 0.1, cell=cell, pbc=True)
