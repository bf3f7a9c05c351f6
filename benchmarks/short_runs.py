"""Errors after twenty steps on twelve small data sets, by two models of two families, over those of no network at all.

    python -m benchmarks.short_runs [--sets water argon] [--steps 20] [--csv short_runs.csv]

Each run is ``eqmol train data=xyz`` with all defaults but the cutoff and the number of epochs, whole ones. The saved model is
evaluated on all frames: RMSE of energies per atom over the root mean square of their labels, both without isolated atoms (E0s), and
of forces. Above 1 a run is worse than a model that says nothing. The sets are those of tests/train/test_start.py.
"""

import argparse
import csv
import io
import math
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import ase
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from eqmol import checkpoint
from eqmol.cli.main import main as eqmol
from eqmol.graph import collate
from tests.train.test_start import FAMILIES, MODELS, SETS, graphs_of

BATCH = 5


def isolated(energies: dict[int, float]) -> Iterator[ase.Atoms]:
    """Frames of free atoms, as files have them."""
    for number, energy in energies.items():
        atom = ase.Atoms([number], info={"config_type": "IsolatedAtom"})
        atom.calc = SinglePointCalculator(atom, energy=energy, forces=[[0.0, 0.0, 0.0]])
        yield atom


def ratios(label: str, model: str, backend: str, steps: int, options: list[str]) -> tuple[float, float]:
    """Train, and return the errors of energies and of forces over the size of their labels."""
    frames, energies, cutoff = SETS[label]()
    for atoms in frames:
        atoms.get_forces()
    per_epoch = math.ceil((len(frames) - max(1, round(len(frames) / 10))) / BATCH)
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder, "frames.xyz"), Path(folder, "run")
        write(file, [*frames, *isolated(energies)])
        arguments = [f"data.train_file={file}", f"output_dir={out}", f"model={model}", f"backend={backend}"]
        arguments += [f"model.cutoff={cutoff}", f"data.batch_size={BATCH}", "logger=csv"]
        arguments += [f"trainer.max_epochs={math.ceil(steps / per_epoch)}", *options]
        said = io.StringIO()
        with redirect_stdout(said):
            code = eqmol(["train", "data=xyz", *arguments])
        if code != 0:
            sys.exit(f"{label}: {said.getvalue()}")
        trained = checkpoint.load(out / "model.safetensors", verify=False)
    batch = collate(graphs_of(frames, cutoff))
    found, free = trained(batch), trained.references("energy", batch)
    size = batch.ptr.diff()
    pairs = ((found["energy"] - free) / size, (batch.energy - free) / size), (found["forces"], batch.forces)
    energy, forces = (float((predicted - wanted).norm() / wanted.norm()) for predicted, wanted in pairs)
    return energy, forces


def main() -> None:
    """Run all, and count what is above 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("options", nargs="*", help="further options of eqmol train")
    settings = parser.parse_args()
    rows = [("set", "model", "family", "energies", "forces")]
    for label in settings.sets:
        for model in MODELS:
            for family, backend in FAMILIES.items():
                found = ratios(label, model, backend, settings.steps, settings.options)
                rows.append((label, model, family, *(f"{value:.3f}" for value in found)))
                print(*rows[-1], sep=", ", flush=True)
                if settings.csv:
                    with settings.csv.open("w", newline="", encoding="utf-8") as file:
                        csv.writer(file, lineterminator="\n").writerows(rows)
    for column, name in enumerate(rows[0][3:], 3):
        values = [float(row[column]) for row in rows[1:]]
        print(f"{name}: above 1 in {sum(value > 1 for value in values)} of {len(values)}, at most {max(values):.2f}")


if __name__ == "__main__":
    main()
