"""Energy and forces by the calculators of mace-torch and symmetrix-xl and by the converted model: CPU time of one thread, memory.

    python benchmarks/mace/speed.py make FOLDER            # models with random weights, in the form of MP-0, and structures
    python benchmarks/mace/speed.py times FOLDER [MODEL ...] [mace eqmol symmetrix]
    python benchmarks/mace/speed.py memory FOLDER MODEL KIND ATOMS
    python benchmarks/mace/speed.py table FOLDER

By an interpreter with mace-torch, symmetrix-xl, vesin, safetensors and torch_geometric that finds eqmol in PYTHONPATH. All compute
in float32. Positions move before every call, calculators take turns; medians of 5 calls and more, after three to warm up. Memory is
what a process had at most while it computed, less what it had before.
"""

import json
import platform
import statistics
import sys
import time
from pathlib import Path

import ase
import numpy as np
from ase.build import bulk

MODELS = ("64x0e", "64x0e+64x1o", "128x0e+128x1o")
CELLS = {27: None, 216: 3, 1000: 5}
ELEMENTS = [1, 6, 7, 8]
#: Seconds of eqmol's calls that are measured; calls at least, and those at first that do not count.
ENOUGH, LEAST, WARM = 1.0, 8, 3


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


def of_symmetrix(path: Path) -> object:
    """The calculator of symmetrix-xl, of the file that it makes of a model, compiled for it."""
    from symmetrix import Symmetrix
    from symmetrix.cli.extract_mace import main

    written = path.with_suffix(".json")
    if not written.exists():
        main(["--model", str(path), "--output", str(written)])
    return Symmetrix(str(written), dtype="float32", execution_profile="speed")


KINDS = {"mace": of_mace, "eqmol": of_eqmol, "symmetrix": of_symmetrix}


def evaluate(atoms: ase.Atoms, calculator: object, step: np.ndarray) -> tuple[float, np.ndarray]:
    """Move the atoms; CPU time (s) and forces."""
    atoms.calc = calculator
    atoms.positions += step
    started = time.process_time()
    forces = atoms.get_forces()
    return time.process_time() - started, forces


def times(folder: Path, names: list[str], kinds: list[str]) -> None:
    """Measure in turns, in one process."""
    import torch

    torch.set_num_threads(1)
    for name in names:
        calculators = {kind: KINDS[kind](folder / f"{name}.model") for kind in kinds}
        for number, atoms in structures().items():
            copies, rng = {kind: atoms.copy() for kind in kinds}, np.random.default_rng(1)
            found: dict[str, list[float]] = {kind: [] for kind in kinds}
            while len(found["eqmol"]) < LEAST or (sum(found["eqmol"]) < ENOUGH and len(found["eqmol"]) < 30):
                step, forces = rng.normal(scale=1e-3, size=atoms.positions.shape), {}
                for kind, calculator in calculators.items():
                    seconds, forces[kind] = evaluate(copies[kind], calculator, step)
                    found[kind].append(seconds)
            for kind in kinds:
                wrong = float(np.abs(forces[kind] - forces["eqmol"]).max() / np.abs(forces["eqmol"]).max())
                keep(folder, name, number, kind, ms=1e3 * statistics.median(found[kind][WARM:]), relative=wrong)


def memory(folder: Path, name: str, kind: str, number: int) -> None:
    """Measure the memory of one kind for one structure, in a process of its own."""
    import torch

    torch.set_num_threads(1)
    calculator, atoms = KINDS[kind](folder / f"{name}.model"), structures()[number]
    evaluate(structures()[27], calculator, np.zeros((27, 3)))  # what is loaded or compiled at first use
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    for _ in range(2):
        evaluate(atoms, calculator, np.full(atoms.positions.shape, 1e-4))
    keep(folder, name, number, kind, MB=resident("VmHWM") - before)


def resident(name: str) -> float:
    """Memory of this process now (VmRSS) or at most (VmHWM), MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) / 1024


def keep(folder: Path, name: str, number: int, kind: str, **values: float) -> None:
    """Add numbers to those of the folder."""
    path = folder / "speed.json"
    rows = json.loads(path.read_text()) if path.exists() else {}
    rows.setdefault(f"{name} {number}", {}).setdefault(kind, {}).update(values)
    path.write_text(json.dumps(rows, indent=1))
    print(name, number, kind, values, flush=True)


def table(folder: Path) -> None:
    """Print the results."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "",
    )
    print(f"{cpu or platform.machine()}; ms of one thread, CPU time")
    for name, row in json.loads((folder / "speed.json").read_text()).items():
        own = row["eqmol"]
        for kind, entry in row.items():
            ratio, megabytes = entry["ms"] / own["ms"], entry.get("MB", float("nan"))
            print(
                f"{name:22} {kind:10} {entry['ms']:9.1f} ms {ratio:6.1f}x {megabytes:7.0f} MB  {entry['relative']:.0e}"
            )


if __name__ == "__main__":
    role, folder, *names = sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]
    models = [name for name in names if name in MODELS] or list(MODELS)
    kinds = [name for name in names if name in KINDS] or list(KINDS)
    if role == "make":
        make(folder)
    elif role == "times":
        times(folder, models, kinds)
    elif role == "memory":
        memory(folder, names[0], names[1], int(names[2]))
    else:
        table(folder)
