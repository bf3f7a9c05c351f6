"""Relax several structures at once, in one graph, by torch-sim: python torch_sim_relax.py MODEL [structures]."""

import sys

import torch
import torch_sim
from ase.io import read

from eqmol.engines.torch_sim import TorchSimModel
from eqmol.files import shipped

path = sys.argv[1]
source = sys.argv[2] if len(sys.argv) > 2 else shipped("data") / "sample" / "test_600K.xyz"
structures = read(source, ":4")
for atoms in structures:
    atoms.calc = None
model = TorchSimModel(path)
state = torch_sim.io.atoms_to_state(structures, model.device, torch.float64)
before = model(state)["energy"]
state = torch_sim.optimize(
    system=state,
    model=model,
    optimizer=torch_sim.optimizers.fire,
    convergence_fn=torch_sim.generate_force_convergence_fn(force_tol=0.1, include_cell_forces=False),
    max_steps=20,
)
after = model(state)["energy"]
print("energies went down by", ", ".join(f"{float(drop):.3f}" for drop in before - after), "eV")
