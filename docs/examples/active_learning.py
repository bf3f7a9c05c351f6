"""Dynamics, selection, labels, fine-tuning, and again. Options of eqmol train may follow the name of the script."""

import sys
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read, write

from eqmol import predict
from eqmol.cli.main import main as eqmol

ROUNDS, CHOSEN, PICOSECONDS, TEMPERATURE = 3, 8, 1.0, 900
folder = Path(mkdtemp(prefix="eqmol_"))
train_file = folder / "train.xyz"


def label(structures: list[Atoms]) -> list[Atoms]:
    """Energies and forces of any calculator of ASE; here its cheap potential EMT stands for one."""
    labelled = [Atoms(s.numbers, s.positions, cell=s.cell, pbc=s.pbc, info={"config_type": "MD"}) for s in structures]
    for atoms in labelled:
        atoms.calc = EMT()
        atoms.get_forces()
    return labelled


def shaken(size: float, number: int) -> list[Atoms]:
    """Copper crystals with random displacements (Å)."""
    found = [bulk("Cu", cubic=True) * (2, 1, 1) for _ in range(number)]
    for seed, atoms in enumerate(found):
        atoms.rattle(size, seed=seed)
    return found


def train(name: str, *options: str) -> Path:
    """Train a model; its file."""
    data = ["data=xyz", f"data.train_file={train_file}", "data.val_fraction=0.2", f"output_dir={folder / name}"]
    sizes = ["backend=grid", "model.channels=8", "model.cutoff=4.5", "trainer.max_epochs=40"]
    assert eqmol(["train", *data, *sizes, *options, *sys.argv[1:]]) == 0
    return folder / name / "model.safetensors"


free = Atoms("Cu", calculator=EMT(), info={"config_type": "IsolatedAtom"})
free.get_forces()
write(train_file, [free, *label(shaken(0.08, 15))])
hot = label(shaken(0.15, 20))
write(folder / "start.xyz", bulk("Cu", cubic=True) * (2, 1, 1))

model = train("round_0")
errors = []
for number in range(1, ROUNDS + 1):
    results = predict(hot, model, close_contacts="warn")
    difference = [result["forces"] - atoms.get_forces() for result, atoms in zip(results, hot, strict=True)]
    errors.append(float(np.sqrt(np.mean(np.square(difference)))))
    # dynamics end early where the model is not to be trusted; what they saw until then is the pool
    run = folder / f"md_{number}"
    heat = ["--temperature", str(TEMPERATURE), "--time", str(PICOSECONDS), "--interval", "5", "--seed", str(number)]
    eqmol(["md", str(model), str(folder / "start.xyz"), "-o", str(run), *heat])
    pool = [path for path in (run / "trajectory.xyz", run / "stopped.xyz") if path.exists()]
    chosen = folder / f"chosen_{number}.xyz"
    least = min(CHOSEN, sum(len(read(path, ":")) for path in pool))
    choice = ["-n", str(least), "-o", str(chosen), "--known", str(train_file)]
    if eqmol(["select", *map(str, pool), str(model), *choice]) != 0:
        break  # nothing new was seen
    write(train_file, label(read(chosen, ":")), append=True)
    model = train(f"round_{number}", f"init_from={model}")
print(f"RMSE of forces on hot crystals before each round: {', '.join(f'{1e3 * error:.0f}' for error in errors)} meV/Å")
