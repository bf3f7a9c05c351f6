"""Compiled tensor products beside those of torch, in whole models: training steps and forces through the calculator.

    python -m benchmarks.kernels [--sizes 64x1] [--rounds 15] [--csv docs/benchmarks/kernels.csv]
    python -m benchmarks.kernels --variants tables --work 27 216 --csv docs/benchmarks/models.csv \
        --sizes 16x1 32x1 64x1 128x1 256x1 64x2 64x3 64x4 64x5 64x6

Sizes are channels x degree of ``model=mace``: filter of degree 3, powers of order 3, two layers, a cutoff of 5 Å, float32. A step
takes five molecules of 27 atoms of the embedded sample: forward, forces, loss, backward, Muon. Forces are those of one of them,
and of 216 atoms of water, moved a little every time. Process CPU time on one thread, medians; variants take turns; compilation is
excluded.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import ase
import numpy as np
import torch
from ase.build import molecule
from ase.io import read

import eqmol
from benchmarks.networks import write
from eqmol.checkpoint import build
from eqmol.graph import collate, from_atoms
from eqmol.models.predictor import Predictor
from eqmol.nn import parameter_groups
from eqmol.train.muon import Muon
from eqmol.tuning import use_kernels
from eqmol.tuning.cache import hardware

SAMPLE = Path(__file__).parents[1] / "data" / "sample" / "train_300K.xyz"
CUTOFF = 5.0  #: Å
FAMILIES = {"cg": "coupled", "grid": "gaunt"}
#: Name of a variant -> kernels, and tables of radial weights, which training has none of.
VARIANTS = {"off": ("off", "off"), "kernels": ("auto", "off"), "tables": ("auto", "auto")}
WORK = ("step", "27", "216")


def model(backend: str, channels: int, degree: int) -> Predictor:
    """An untrained potential."""
    torch.manual_seed(0)
    backbone = {
        "_target_": "eqmol.models.MACE",
        "backend": backend,
        "family": FAMILIES[backend],
        "parity": "o3",
        "degree": degree,
        "filter_degree": 3,
        "channels": channels,
        "layers": 2,
        "correlation": 3,
        "fields": 1,
        "cutoff": CUTOFF,
        "elements": [1, 6, 7, 8],
        "avg_num_neighbors": 16.0,
    }
    energies = {"elements": [1, 6, 7, 8], "e0": [0.0] * 4, "scale": 1.0}
    return build({"_target_": "eqmol.models.Potential", "backbone": backbone, **energies})


def water() -> ase.Atoms:
    """72 molecules at the density of the liquid, of random orientations."""
    rng, side = np.random.default_rng(0), (72 * 29.9) ** (1 / 3)
    atoms = ase.Atoms(cell=[side] * 3, pbc=True)
    for place in np.ndindex(6, 4, 3):
        one = molecule("H2O")
        one.rotate(360 * rng.random(), rng.normal(size=3))
        one.positions += (np.array(place) + 0.5) * side / [6, 4, 3]
        atoms += one
    return atoms


def step(potential: Predictor) -> Callable[[], None]:
    """A training step on five molecules."""
    batch = collate([from_atoms(atoms, CUTOFF) for atoms in read(SAMPLE, ":5")])
    optimizer = Muon(parameter_groups(potential))
    target = torch.randn(len(batch.pos), 3, dtype=torch.float64)

    def run() -> None:
        results = potential(batch)
        loss = (results["forces"] - target).square().mean() + results["energy"].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    potential.train()
    return run


def forces(potential: Predictor, atoms: ase.Atoms, variant: str) -> Callable[[], None]:
    """Forces by the calculator after a small move."""
    rng = np.random.default_rng(1)
    kernels, table = VARIANTS[variant]
    atoms.calc = eqmol.Calculator(potential, kernels=kernels, radial_table=table, close_contacts="warn")

    def run() -> None:
        atoms.positions += 1e-3 * rng.normal(size=atoms.positions.shape)
        atoms.get_forces()

    return run


def measure(
    channels: int, degree: int, rounds: int, works: Sequence[str], variants: Sequence[str]
) -> list[dict[str, object]]:
    """Rows of backend, work and milliseconds of every variant, and how many times slower none is than the fastest."""
    rows = []
    for work in works:
        runs: dict[tuple[str, str], Callable[[], None]] = {}
        for backend in FAMILIES:
            for variant in variants:
                potential = model(backend, channels, degree)
                if work != "step":
                    atoms = read(SAMPLE) if work == "27" else water()
                    runs[backend, variant] = forces(potential, atoms, variant)
                elif variant != "tables":
                    use_kernels(potential, VARIANTS[variant][0])
                    runs[backend, variant] = step(potential)
        times: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
        for number in range(rounds + 2):
            for key, run in runs.items():
                begin = time.process_time()
                run()
                if number >= 2:
                    times[key].append(1e3 * (time.process_time() - begin))
        for backend in FAMILIES:
            medians = {name: statistics.median(times[key]) for key in runs if key[0] == backend for name in key[1:]}
            row = {"work": work, "channels": channels, "degree": degree, "backend": backend}
            row |= {f"{name}_ms": round(medians.get(name, math.nan), 2) for name in variants}
            if "off" in variants:
                row["ratio"] = round(medians["off"] / min(medians.values()), 2)
            rows.append(row)
            print(*(f"{name}={value}" for name, value in rows[-1].items()), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="*", default=["64x1"], help="channels x degree")
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--work", nargs="*", choices=WORK, default=list(WORK))
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(hardware(torch.device("cpu")))
    rows = []
    for size in options.sizes:
        channels, degree = map(int, size.split("x"))
        rows += measure(channels, degree, options.rounds, options.work, options.variants)
    if options.csv is not None:
        write(rows, options.csv)


if __name__ == "__main__":
    main()
