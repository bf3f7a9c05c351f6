"""From an .xyz file of one's own to molecular dynamics. Options of eqmol train may follow the name of the script."""

import sys
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read, write
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet

from eqmol import Calculator
from eqmol.cli.main import main as eqmol

folder = Path(mkdtemp(prefix="eqmol_"))
train_file, output = folder / "train.xyz", folder / "run"

# your data, of any program, in eV and Å; here ASE's cheap potential EMT stands for one
atoms = Atoms("Cu", info={"config_type": "IsolatedAtom"}, calculator=EMT())  # the energy of the free atom
atoms.get_forces()
write(train_file, atoms)
atoms = bulk("Cu", cubic=True) * (2, 1, 1)
atoms.rattle(0.05, seed=0)
atoms.calc = EMT()
random = np.random.default_rng(0)
heating = Langevin(atoms, 5 * units.fs, temperature_K=600, friction=0.05 / units.fs, fixcm=False, rng=random)
heating.attach(lambda: write(train_file, atoms, append=True), interval=5)
heating.run(200)

# training: eqmol train data=xyz data.train_file=train.xyz data.val_fraction=0.1 ...
files = [f"data.train_file={train_file}", "data.val_fraction=0.1", f"output_dir={output}"]
options = ["backend=grid", "model.channels=16", "model.cutoff=4.5", "trainer.max_epochs=20", *sys.argv[1:]]
eqmol(["train", "data=xyz", *files, *options])

# molecular dynamics at constant energy, from the last frame with its velocities
atoms = read(train_file, "-1")
atoms.calc = Calculator(output / "model.safetensors")
start = atoms.get_total_energy()
VelocityVerlet(atoms, 2 * units.fs).run(20)
drift = (atoms.get_total_energy() - start) / len(atoms)
print(f"after 40 fs at {atoms.get_temperature():.0f} K the total energy has changed by {1e3 * drift:.2f} meV per atom")
