"""A part of a system by a model, the rest by a force field, in OpenMM: python openmm_mixed.py MODEL.

One of eight water molecules has the model's energy; all interactions between molecules are those of TIP3P.
"""

import sys

import numpy as np
import openmm
from ase import Atoms, units
from openmm import app, unit
from openmmml import MLPotential

from eqmol import Calculator

path = sys.argv[1]
topology = app.Topology()
chain = topology.addChain()
positions = []
shape = np.array([[0, 0, 0], [0.9572, 0, 0], [-0.24, 0.9266, 0]])
oxygen, hydrogen = app.Element.getBySymbol("O"), app.Element.getBySymbol("H")
for site in np.ndindex(2, 2, 2):
    residue = topology.addResidue("HOH", chain)
    water = [
        topology.addAtom(name, kind, residue) for name, kind in (("O", oxygen), ("H1", hydrogen), ("H2", hydrogen))
    ]
    topology.addBond(water[0], water[1])
    topology.addBond(water[0], water[2])
    positions.append(shape + 3.1 * np.array(site))
positions = np.concatenate(positions)
force_field = app.ForceField("tip3p.xml")
classical = force_field.createSystem(topology, nonbondedMethod=app.NoCutoff, rigidWater=False)
mixed = MLPotential("ase").createMixedSystem(topology, classical, [0, 1, 2], calculator=Calculator(path))


def energy(system: openmm.System, where: np.ndarray) -> float:
    """eV."""
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(where * unit.angstrom)
    found = context.getState(energy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    return float(found * units.kJ / units.mol)


# what must come out: the force field's energy, with the model's for that within the molecule
alone = app.Topology()
residue = alone.addResidue("HOH", alone.addChain())
water = [alone.addAtom(name, kind, residue) for name, kind in (("O", oxygen), ("H1", hydrogen), ("H2", hydrogen))]
alone.addBond(water[0], water[1])
alone.addBond(water[0], water[2])
within = energy(force_field.createSystem(alone, nonbondedMethod=app.NoCutoff, rigidWater=False), positions[:3])
molecule = Atoms("OHH", positions[:3], calculator=Calculator(path))
difference = energy(mixed, positions) - (energy(classical, positions) - within + molecule.get_potential_energy())
print(f"mixed system: {energy(mixed, positions):.6f} eV, {difference:.1e} eV from the sum of its parts")

simulation = app.Simulation(topology, mixed, openmm.LangevinMiddleIntegrator(300, 1.0, 0.0005))
simulation.context.setPositions(positions * unit.angstrom)
simulation.step(20)
