"""A polarizability tensor and charges of one's own: declared, trained, predicted, and turned with the molecule.

Options of eqmol train may follow the name of the script.
"""

import sys
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from ase.build import molecule
from ase.io import write
from scipy.spatial.transform import Rotation

import eqmol
from eqmol.cli.main import main as command

folder = Path(mkdtemp(prefix="eqmol_"))
random = np.random.default_rng(0)

# labelled molecules, from your calculations; here made up: bonds are easier to polarize along than across
frames = []
for number in range(120):
    atoms = molecule(("CH4", "CH3OH", "H2O", "NH3", "C2H4", "HCOOH")[number % 6])
    atoms.rattle(0.05, seed=number)
    atoms.rotate(random.uniform(0, 360), random.normal(size=3))
    arms = atoms.get_all_distances(vector=True)
    lengths = atoms.get_all_distances() + 10 * np.eye(len(atoms))
    bonds = arms * np.exp(-(lengths**2) / 2)[..., None]
    atoms.info["alpha"] = 3 * len(atoms) * np.eye(3) + np.einsum("ijx,ijy->xy", bonds, bonds)  # a0³
    if number % 3:  # labels may have gaps
        atoms.arrays["charges"] = (atoms.numbers.mean() - atoms.numbers) / 20  # e
    frames.append(atoms)
write(folder / "train.xyz", frames)

# training
targets = '{alpha: {kind: tensor, unit: "a0^3"}, q: {kind: atomic, unit: e, key: charges}}'
files = [f"data.train_file={folder / 'train.xyz'}", "data.val_fraction=0.1", f"output_dir={folder / 'run'}"]
what = ["task=properties", "predictor=properties", f"data.targets={targets}", "task.target=[alpha,q]"]
options = ["backend=grid", "model.channels=16", "model.cutoff=4", "trainer.max_epochs=20", *sys.argv[1:]]
command(["train", "data=xyz", *files, *what, *options])

# prediction, of a molecule and of the same one turned
model = eqmol.load(folder / "run" / "model.safetensors", dtype="float64")
rotation = Rotation.random(random_state=0).as_matrix()
turned = frames[0].copy()
turned.positions = turned.positions @ rotation.T
before, after = eqmol.predict([frames[0], turned], model)
difference = abs(after["alpha"] - rotation @ before["alpha"] @ rotation.T).max()
print(f"charges of the first molecule: {before['q'].round(3)}")
print(f"its polarizability turns with it to {difference:.0e} a0³")
