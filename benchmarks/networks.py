"""Whole models beside mace-torch and NequIP: training steps, and forces through ASE calculators.

    python -m benchmarks.networks --peers .venv-bench/bin/python [--channels 64] [--degree 1] [--csv docs/benchmarks/networks.csv]
    python -m benchmarks.networks --models nequip cg-pair grid-pair --nequip .venv-nequip/bin/python [--layers 3]

Every model runs in a process of its own for every kind of work, mace-torch in the environment that ``--peers`` names (``make
bench`` makes it), NequIP in that of ``--nequip`` (``pip install nequip==0.19.1``: the two need different e3nn), and they take
turns. Process CPU time of one thread, medians, the spread of the middle half relative to them, compilation and the first calls
excluded; MiB are what the work needs beyond the model. Sizes: features of the given degree, a filter of degree 3, powers of
order 3, radial network 64-64-64, a cutoff of 5 Å, float32. A step takes five molecules of 27 atoms of the embedded sample:
collation, forward, forces, loss, backward, clipping, optimizer, average of the weights, each with the package's own. Forces are
those of one of them and of cells of water at the density of the liquid, atoms moved a little every time. NequIP couples two
neighbours at a time; beside it stands ``model=mace`` of order 1 with a filter of its degree. Rows of other sizes stay in the file
of ``--csv``.
"""

import argparse
import csv
import functools
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ase
import numpy as np
import torch
from ase.io import read

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "data" / "sample" / "train_300K.xyz"
CUTOFF = 5.0  #: Å
ELEMENTS, ENERGIES = [1, 6, 7, 8], [-13.6, -1030.0, -1486.0, -2043.0]
NEIGHBORS = 16.6
MODELS = ("mace-torch", "cg", "grid", "nequip", "nequip-compiled", "cg-pair", "grid-pair")
WORK = ("step", "27", "216", "1000")
FAMILIES = {"cg": "coupled", "grid": "gaunt"}


class Sizes(NamedTuple):
    """Of a network."""

    channels: int = 64
    degree: int = 1
    layers: int = 2


def molecules() -> list[ase.Atoms]:
    """Of the embedded sample, with labels under names of no package."""
    found = []
    for atoms in read(SAMPLE, ":5"):
        plain = ase.Atoms(atoms.numbers, atoms.positions)
        plain.info["e"], plain.arrays["f"] = atoms.get_potential_energy(), atoms.get_forces()
        found.append(plain)
    return found


def cell(number: int) -> ase.Atoms:
    """Hydrogen and oxygen at 0.1 atoms per Å³ on a lattice, moved at random."""
    side, rng = round(number ** (1 / 3)), np.random.default_rng(0)
    step = 0.1 ** (-1 / 3)
    positions = step * np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)
    numbers = np.where(np.arange(side**3) % 3 == 0, 8, 1)
    return ase.Atoms(numbers, positions + rng.normal(0, 0.15, positions.shape), cell=[side * step] * 3, pbc=True)


class Eqmol:
    """This package, with its defaults of training and prediction."""

    def __init__(self, name: str, sizes: Sizes) -> None:
        from eqmol.checkpoint import build
        from eqmol.cli.options import keep_freed_memory
        from eqmol.graph import from_atoms
        from eqmol.nn import parameter_groups
        from eqmol.train.loss import Term, WeightedLoss
        from eqmol.train.muon import Muon

        keep_freed_memory()
        backend, _, pair = name.partition("-")
        torch.manual_seed(0)
        backbone = {
            "_target_": "eqmol.models.MACE",
            "backend": backend,
            "family": FAMILIES[backend],
            "parity": "o3",
            "degree": sizes.degree,
            "filter_degree": sizes.degree if pair else 3,
            "channels": sizes.channels,
            "layers": sizes.layers,
            "correlation": 1 if pair else 3,
            "fields": 1,
            "cutoff": CUTOFF,
            "elements": ELEMENTS,
            "avg_num_neighbors": NEIGHBORS,
        }
        potential = {"_target_": "eqmol.models.Potential", "backbone": backbone, "scale": 1.0}
        self.model = build(potential | {"elements": ELEMENTS, "e0": ENERGIES})
        self.graphs = [from_atoms(a, CUTOFF, energy=a.info["e"], forces=a.arrays["f"]) for a in molecules()]
        terms = {"energy": Term(1.0), "forces": Term(100.0)}
        self.loss = WeightedLoss(terms, 1.0)
        self.optimizer = Muon(parameter_groups(self.model))
        self.average, self.steps = [p.detach().clone() for p in self.model.parameters()], 0

    def step(self) -> None:
        from eqmol.graph import collate
        from eqmol.train.ema import average_

        batch = collate(self.graphs)
        self.model.train()
        weights = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.loss(self.model(batch), batch, raised=0.0).backward(inputs=weights)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        average_(0.99, self.average, [p.detach() for p in self.model.parameters()], self.steps)
        self.steps += 1

    def calculator(self) -> Any:
        import eqmol

        return eqmol.Calculator(self.model, close_contacts="warn")


class Mace:
    """mace-torch, with the settings of its training script."""

    def __init__(self, name: str, sizes: Sizes) -> None:
        from e3nn.o3 import Irreps
        from mace import data, modules, tools
        from mace.tools.torch_geometric.dataloader import DataLoader
        from torch_ema import ExponentialMovingAverage

        torch.set_default_dtype(torch.float32)
        table = tools.AtomicNumberTable(ELEMENTS)
        keys = data.KeySpecification(info_keys={"energy": "e"}, arrays_keys={"forces": "f"})
        configurations = [data.config_from_atoms(atoms, key_specification=keys) for atoms in molecules()]
        graphs = [data.AtomicData.from_config(c, z_table=table, cutoff=CUTOFF) for c in configurations]
        self.loader = DataLoader(graphs, batch_size=5, shuffle=False)
        torch.manual_seed(0)
        block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
        self.model = modules.ScaleShiftMACE(
            r_max=CUTOFF,
            num_bessel=8,
            num_polynomial_cutoff=5,
            max_ell=3,
            interaction_cls=block,
            interaction_cls_first=block,
            num_interactions=sizes.layers,
            num_elements=len(ELEMENTS),
            hidden_irreps=Irreps("+".join(f"{sizes.channels}x{l}{'eo'[l % 2]}" for l in range(sizes.degree + 1))),
            MLP_irreps=Irreps("16x0e"),
            atomic_energies=np.array([ENERGIES]),
            avg_num_neighbors=NEIGHBORS,
            atomic_numbers=table.zs,
            correlation=3,
            gate=torch.nn.functional.silu,
            atomic_inter_scale=1.0,
            atomic_inter_shift=0.0,
            radial_MLP=[64, 64, 64],
            radial_type="bessel",
        )
        self.loss = modules.WeightedEnergyForcesLoss(energy_weight=1.0, forces_weight=100.0)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-2, amsgrad=True)
        self.average = ExponentialMovingAverage(self.model.parameters(), decay=0.99)

    def step(self) -> None:
        batch = next(iter(self.loader))
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        result = self.model(batch.to_dict(), training=True, compute_force=True)
        self.loss(pred=result, ref=batch).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
        self.optimizer.step()
        self.average.update()

    def calculator(self) -> Any:
        from mace.calculators import MACECalculator

        return MACECalculator(models=[self.model], device="cpu", default_dtype="float32")


class Nequip:
    """NequIP, eager or compiled; batches and averages are those of plain torch."""

    def __init__(self, name: str, sizes: Sizes) -> None:
        from nequip.data import AtomicDataDict, from_ase
        from nequip.data.transforms import (
            ChemicalSpeciesToAtomTypeMapper,
            NeighborListTransform,
        )
        from nequip.integrations.ase import NequIPCalculator
        from nequip.model import NequIPGNNModel
        from nequip.utils.global_state import set_global_state

        set_global_state()
        symbols = ["H", "C", "N", "O"]
        self.model = NequIPGNNModel(
            seed=0,
            model_dtype="float32",
            compile_mode="compile" if name == "nequip-compiled" else "eager",
            r_max=CUTOFF,
            type_names=symbols,
            l_max=sizes.degree,
            parity=False,
            num_layers=sizes.layers,
            num_features=sizes.channels,
            radial_mlp_depth=3,
            radial_mlp_width=64,
            avg_num_neighbors=NEIGHBORS,
            per_type_energy_shifts=dict(zip(symbols, ENERGIES, strict=True)),
        )
        transforms = [ChemicalSpeciesToAtomTypeMapper(symbols), NeighborListTransform(r_max=CUTOFF)]

        def graph(atoms: ase.Atoms) -> dict:
            data = from_ase(ase.Atoms(atoms.numbers, atoms.positions))
            return functools.reduce(lambda found, transform: transform(found), transforms, data)

        self.graphs, found = [graph(atoms) for atoms in molecules()], molecules()
        self.collate = AtomicDataDict.batched_from_list
        self.energy = torch.tensor([[atoms.info["e"]] for atoms in found])
        self.forces = torch.tensor(np.concatenate([atoms.arrays["f"] for atoms in found]))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, amsgrad=True)
        self.average = [p.detach().clone() for p in self.model.parameters()]
        self.make = lambda: NequIPCalculator(self.model, "cpu", transforms=transforms)

    def step(self) -> None:
        self.model.train()
        result = self.model(self.collate([dict(graph) for graph in self.graphs]))
        loss = 100 * (result["forces"] - self.forces).square().mean()
        loss = loss + ((result["total_energy"] - self.energy) / 27).square().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, [p.detach() for p in self.model.parameters()], 0.01)

    def calculator(self) -> Any:
        self.model.eval()
        return self.make()


PACKAGES: dict[str, Callable[..., Any]] = {"mace-torch": Mace, "nequip": Nequip, "nequip-compiled": Nequip}


def forces(model: Any, number: int) -> Callable[[], None]:
    """Forces by the calculator after a small move."""
    atoms, rng = molecules()[0] if number == 27 else cell(number), np.random.default_rng(1)
    atoms.info, atoms.arrays = {}, {name: atoms.arrays[name] for name in ("numbers", "positions")}
    start = atoms.positions.copy()
    atoms.calc = model.calculator()

    def run() -> None:
        atoms.positions = start + rng.normal(0, 0.003, start.shape)
        atoms.get_forces()

    return run


def memory(name: str) -> float:
    """MiB: VmRSS, or VmHWM, the peak."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def serve(name: str, sizes: Sizes) -> None:
    """Answer requests for one kind of work a line: CPU seconds of calls, and MiB that they added at most."""
    torch.set_num_threads(1)
    package = PACKAGES.get(name, Eqmol)
    model, built = package(name, sizes), memory("VmRSS")
    runs: dict[str, Callable[[], None]] = {}
    limit = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (12 << 30, limit))
    for line in sys.stdin:
        work, calls = line.split()
        try:
            if work not in runs:
                runs[work] = model.step if work == "step" else forces(model, int(work))
            seconds = []
            for _ in range(int(calls)):
                gc.collect()
                begin = time.process_time()
                runs[work]()
                seconds.append(time.process_time() - begin)
            answer: dict[str, Any] = {"seconds": seconds, "peak": memory("VmHWM") - built}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"[:200]}
        print("\n" + json.dumps(answer), flush=True)


class Worker:
    """A model in a process of its own."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        python = sys.executable
        if name in PACKAGES:
            python = options.peers if PACKAGES[name] is Mace else options.nequip
        command = [python, "-m", "benchmarks.networks", "--serve", name]
        for size in Sizes._fields:
            command += ["--" + size, str(getattr(options, size))]
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        environment["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.name, self.peak = name, 0.0
        self.process = subprocess.Popen(command, text=True, env=environment, cwd=ROOT, **pipes)

    def ask(self, work: str, calls: int) -> list[float]:
        """CPU seconds of calls; none where they failed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            print(work, calls, file=self.process.stdin, flush=True)
        except BrokenPipeError:
            return []
        for line in self.process.stdout:
            if line.startswith("{"):
                answer = json.loads(line)
                if "error" in answer:
                    print(f"{self.name}, {work}: {answer['error']}", file=sys.stderr)
                self.peak = answer.get("peak", self.peak)
                return list(answer.get("seconds", []))
        print(f"{self.name}, {work}: the process ended", file=sys.stderr)
        return []


def measure(work: str, options: argparse.Namespace) -> list[dict[str, object]]:
    """Rows of models: milliseconds, MiB, and how many times faster than the first model each is."""
    workers = {name: Worker(name, options) for name in options.models}
    times: dict[str, list[float]] = {}
    for name, worker in workers.items():
        if worker.ask(work, 2) and (first := worker.ask(work, 1)):
            times[name] = first
    calls = {name: max(1, min(20, int(0.5 / seconds[0]))) for name, seconds in times.items()}
    for _ in range(options.rounds):
        for name in times:
            times[name] += workers[name].ask(work, calls[name])
    quarters = {name: statistics.quantiles(seconds[1:]) for name, seconds in times.items()}
    first_median = quarters[options.models[0]][1] if options.models[0] in quarters else float("nan")
    rows = []
    for name, (low, median, high) in quarters.items():
        row: dict[str, object] = {"work": work, **{size: getattr(options, size) for size in Sizes._fields}}
        row |= {"model": name, "ms": round(1e3 * median, 2), "spread": round((high - low) / median, 2)}
        row |= {"MiB": round(workers[name].peak), "beside": options.models[0], "ratio": round(first_median / median, 2)}
        rows.append(row)
        print(*(f"{key}={value}" for key, value in row.items()), flush=True)
    for worker in workers.values():
        worker.process.terminate()
        worker.process.wait()
    return rows


def write(rows: list[dict[str, Any]], path: Path) -> None:
    """Write rows with the same columns as CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def update(rows: list[dict[str, Any]], path: Path) -> None:
    """Put rows into a file in place of those of the same sizes and work, beside the same model."""
    keys = ("work", *Sizes._fields, "model", "beside")
    known: dict[tuple[str, ...], dict[str, Any]] = {}
    if path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            known = {tuple(row[key] for key in keys): row for row in csv.DictReader(file)}
    known |= {tuple(str(row[key]) for key in keys): row for row in rows}
    write(list(known.values()), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", default=".venv-bench/bin/python", help="interpreter that has mace-torch")
    parser.add_argument("--nequip", default=".venv-nequip/bin/python", help="interpreter that has nequip")
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS[:3]))
    for size, usual in Sizes()._asdict().items():
        parser.add_argument("--" + size, type=int, default=usual)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", nargs="*", choices=WORK, default=list(WORK))
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--serve", choices=MODELS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve, Sizes(options.channels, options.degree, options.layers))
        return
    for work in options.work:
        rows = measure(work, options)
        if options.csv is not None:
            update(rows, options.csv)


if __name__ == "__main__":
    main()
