"""Train a small model, enlarge it without changing what it computes, and go on. Options of eqmol train may follow."""

import sys
from pathlib import Path
from tempfile import mkdtemp

from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.io import write

import eqmol
from eqmol.cli.main import main as command

folder = Path(mkdtemp(prefix="eqmol_"))

# free atoms and distorted molecules, labelled by ASE's cheap potential EMT
frames = [Atoms(symbol, info={"config_type": "IsolatedAtom"}) for symbol in "HCO"]
frames += [molecule("CH3CH2OH") for _ in range(60)]
for number, atoms in enumerate(frames):
    atoms.rattle(0.05, seed=number)
    atoms.calc = EMT()
    atoms.get_forces()
write(folder / "train.xyz", frames)
data = ["data=xyz", f"data.train_file={folder / 'train.xyz'}", "data.val_fraction=0.2"]
options = ["model.filter_degree=2", "trainer.max_epochs=40", *sys.argv[1:]]

# the gaunt family is quick: few weights, products of functions on the sphere
small = folder / "small" / "model.safetensors"
command(["train", *data, "backend=grid", "model.channels=8", f"output_dir={small.parent}", *options])

# the coupled family has a weight for every path; the same function is written in it, proved equal before it is saved
large = folder / "large.safetensors"
command(["convert", str(small), str(large), "--family", "coupled", "--channels", "16"])
before, after = (eqmol.predict(molecule("CH3CH2OH"), model, dtype="float64")["energy"] for model in (small, large))
print(f"energy of ethanol before and after the conversion: {before:.6f} and {after:.6f} eV")

# and training goes on in the larger space
larger = ["backend=cg", "model.channels=16", f"init_from={large}", f"output_dir={folder / 'large'}"]
command(["train", *data, *larger, *options])
