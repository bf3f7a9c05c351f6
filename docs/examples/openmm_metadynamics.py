"""Metadynamics of a dihedral of 3BPA by OpenMM: python openmm_metadynamics.py MODEL [steps]."""

import sys

import numpy as np
import openmm
from ase.io import read
from openmm import app, unit
from openmmml import MLPotential

from eqmol import Calculator
from eqmol.files import shipped

DIHEDRAL = (6, 7, 8, 9)  # C-O-C-C, atoms counted from 0

path, steps = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 2000
atoms = read(shipped("data") / "sample" / "test_300K.xyz", "0")
topology = app.Topology()
residue = topology.addResidue("MOL", topology.addChain())
for symbol in atoms.get_chemical_symbols():
    topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)
system = MLPotential("ase").createSystem(topology, calculator=Calculator(path))

torsion = openmm.CustomTorsionForce("theta")
torsion.addTorsion(*DIHEDRAL)
beta = app.BiasVariable(torsion, -np.pi, np.pi, 0.35, periodic=True)
bias = app.Metadynamics(system, [beta], 300 * unit.kelvin, 10.0, 1.0 * unit.kilojoule_per_mole, frequency=20)
integrator = openmm.LangevinMiddleIntegrator(300 * unit.kelvin, 10 / unit.picosecond, 0.5 * unit.femtosecond)
integrator.setRandomNumberSeed(1)
simulation = app.Simulation(topology, system, integrator, openmm.Platform.getPlatformByName("CPU"))
simulation.context.setPositions(atoms.positions * unit.angstrom)
simulation.context.setVelocitiesToTemperature(300 * unit.kelvin, 1)
bias.step(simulation, steps)

angle = float(bias.getCollectiveVariables(simulation)[0])
free_energy = bias.getFreeEnergy().value_in_unit(unit.kilojoule_per_mole)
print(f"dihedral {np.degrees(angle):.0f}°, highest bias {float(-free_energy.min() / (1 - 1 / 10)):.2f} kJ/mol")
