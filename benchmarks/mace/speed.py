"""Energy and forces by mace-torch's calculator and by the converted model: CPU time of one thread, and memory.

    MACE_PYTHON benchmarks/mace/speed.py make FOLDER          # models with random weights, in the form of MP-0, and structures
    MACE_PYTHON benchmarks/mace/speed.py mace FOLDER [MODEL ...]
    python benchmarks/mace/speed.py eqmol FOLDER [MODEL ...]
    python benchmarks/mace/speed.py table FOLDER

Both compute in float32. Positions move before every call; medians of 5 calls and more, after three for warming up. Memory is what a
process had at most while it computed, less what it had before.
"""

import json
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import ase
import numpy as np
from ase.build import bulk

MODELS = ("64x0e", "64x0e+64x1o", "128x0e+128x1o")
CELLS = {27: None, 216: 3, 1000: 5}
ELEMENTS = [1, 6, 7, 8]
#: Seconds of calls that are measured.
ENOUGH = 3.0


def structures() -> dict[int, ase.Atoms]:
    """A cluster and two crystals, disordered, of four elements, with 0.11 atoms per Å³."""
    rng, found = np.random.default_rng(0), {}
    for number, repeat in CELLS.items():
        atoms = bulk("C", "diamond", a=4.2, cubic=True) * ((repeat or 2,) * 3)
        if repeat is None:
            atoms = atoms[np.argsort(np.linalg.norm(atoms.positions - atoms.positions.mean(0), axis=1))[:number]]
            atoms.pbc = False
        atoms.numbers = rng.choice(ELEMENTS, len(atoms))
        atoms.rattle(0.15, rng=rng)
        found[number] = atoms
    return found


def make(folder: Path) -> None:
    """Write the models."""
    import torch
    from e3nn import o3

    from mace import modules

    torch.set_default_dtype(torch.float64)
    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    for hidden in MODELS:
        torch.manual_seed(0)
        model = modules.ScaleShiftMACE(
            atomic_inter_scale=1.0, atomic_inter_shift=0.0, r_max=5.0, num_bessel=8, num_polynomial_cutoff=5, max_ell=3,
            interaction_cls=block, interaction_cls_first=block, num_interactions=2, num_elements=len(ELEMENTS),
            hidden_irreps=o3.Irreps(hidden), MLP_irreps=o3.Irreps("16x0e"), atomic_energies=np.zeros(len(ELEMENTS)),
            avg_num_neighbors=50.0, atomic_numbers=ELEMENTS, correlation=3, gate=torch.nn.functional.silu, radial_MLP=[64, 64, 64],
        )  # fmt: skip
        torch.save(model, folder / f"{hidden}.model")


def measure(folder: Path, kind: str, names: list[str], calculator: Callable[[Path], object]) -> None:
    """Add rows of one kind to the results."""
    import torch

    torch.set_num_threads(1)
    path = folder / "speed.json"
    rows = json.loads(path.read_text()) if path.exists() else {}
    for name in names:
        calc = calculator(folder / f"{name}.model")
        for number, atoms in structures().items():
            atoms = ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
            atoms.calc, rng, times = calc, np.random.default_rng(1), []
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            while len(times) < 8 or (sum(times) < ENOUGH and len(times) < 30):
                atoms.positions += rng.normal(scale=1e-3, size=atoms.positions.shape)
                started = time.process_time()
                forces = atoms.get_forces()
                times.append(time.process_time() - started)
            memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            row = {"ms": 1e3 * statistics.median(times[3:]), "MB": memory, "check": float(np.square(forces).sum())}
            rows.setdefault(f"{name} {number}", {})[kind] = row
            print(kind, name, number, row, flush=True)
    path.write_text(json.dumps(rows, indent=1))


def of_mace(path: Path) -> object:
    """The calculator of mace-torch."""
    from mace.calculators import MACECalculator

    return MACECalculator(str(path), device="cpu", default_dtype="float32")


def of_eqmol(path: Path) -> object:
    """The calculator of eqmol."""
    from eqmol import Calculator
    from eqmol.convert.mace_torch.model import convert_mace
    from eqmol.convert.mace_torch.parts import read_model

    return Calculator(convert_mace(read_model(path)).model, dtype="float32")


def table(folder: Path) -> None:
    """Print the results."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "",
    )
    print(f"{cpu or platform.machine()}; ms of one thread, CPU time")
    for name, row in json.loads((folder / "speed.json").read_text()).items():
        mace, own = row["mace"], row["eqmol"]
        assert abs(mace["check"] / own["check"] - 1) < 1e-3, name
        ratio = mace["ms"] / own["ms"]
        print(
            f"{name:22} mace {mace['ms']:8.1f}  eqmol {own['ms']:8.1f}  {ratio:5.1f}x  MB {mace['MB']:.0f} {own['MB']:.0f}"
        )


if __name__ == "__main__":
    role, folder, *names = sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]
    if role == "make":
        make(folder)
    elif role == "table":
        table(folder)
    else:
        measure(folder, role, names or list(MODELS), of_mace if role == "mace" else of_eqmol)
