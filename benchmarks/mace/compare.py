"""Convert the models of ``make.py`` and compare 100 structures of each, and their dynamics, with mace-torch.

python -m benchmarks.mace.compare FOLDER [NAME ...]
"""

import json
import sys
from pathlib import Path

import ase
import numpy as np
import torch
from ase import units
from ase.md.verlet import VelocityVerlet

from eqmol import Calculator
from eqmol.checkpoint import for_prediction
from eqmol.convert.mace_torch.model import convert_mace
from eqmol.convert.mace_torch.parts import read_model
from eqmol.convert.mace_torch.proof import evaluate
from eqmol.models import Potential

COLUMNS = (
    "model",
    "energy eV",
    "forces eV/Å",
    "stress eV/Å³",
    "f32 eV/atom",
    "f32 eV/Å",
    "f32 eV/Å³",
    "MD Å",
    "largest force",
)


def differences(model: Potential, structures: list[ase.Atoms], expected: list[dict]) -> list[float]:
    """Largest differences in total energy, energy per atom, forces and stress."""
    largest = np.zeros(4)
    for atoms, result, wanted in zip(structures, evaluate(model, structures), expected, strict=True):
        energy = abs(result["energy"] - wanted["energy"])
        found = [energy, energy / len(atoms), np.abs(result["forces"] - wanted["forces"]).max(), 0.0]
        if "stress" in wanted:
            found[3] = np.abs(result["stress"] - wanted["stress"]).max()
        largest = np.maximum(largest, found)
    return largest.tolist()


def dynamics(model: Potential, atoms: ase.Atoms, expected: dict) -> float:
    """Largest difference of positions after the same 1,000 steps of 0.5 fs."""
    atoms = atoms.copy()
    atoms.set_momenta(expected["momenta"])
    atoms.calc = Calculator(model)
    VelocityVerlet(atoms, 0.5 * units.fs).run(1000)
    return float(np.abs(atoms.positions - expected["positions"]).max())


def main(folder: Path, names: list[str]) -> None:
    """Print a row for each model."""
    torch.set_num_threads(1)
    print(("{:18}" + "{:>14}" * 8).format(*COLUMNS))
    for path in sorted(folder.glob("*.model")):
        stored = path.with_suffix(".json")
        if not stored.exists() or (names and path.stem not in names):
            continue
        given = json.loads(stored.read_text())
        model = convert_mace(read_model(path), given["head"]).model
        structures = [ase.Atoms(**structure) for structure in given["structures"]]
        double = differences(for_prediction(model), structures, given["results"])
        single = differences(for_prediction(model, dtype="float32"), structures, given["results"])
        moved = dynamics(model, structures[0], given["md"]) if "md" in given else float("nan")
        force = max(float(np.abs(result["forces"]).max()) for result in given["results"])
        row = (double[0], *double[2:], *single[1:], moved)
        print(f"{path.stem:18}" + "".join(f"{value:14.1e}" for value in row) + f"{force:14.2f}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
