"""Weak scaling of LAMMPS with a model: mpiexec -n 2 python benchmarks/lammps_scaling.py [ATOMS_PER_PROCESS ...]; one row each.

A copper crystal, a small untrained model of two layers, cutoff 4 Å, 16 channels, float32. Columns: processes, atoms of each, CPU
time of the model per step (ms, median, of the slower process, without waiting for the other one), the same per own atom (µs),
evaluated atoms per own atom, and the most memory of a process (MB).
"""

import resource
import statistics
import sys
import time
from typing import Any

import torch
from ase.build import bulk
from mpi4py import MPI

from eqmol.checkpoint import build, default_dtype
from eqmol.engines.lammps import LammpsPotential, lammps
from eqmol.models import Potential

STEPS, WARM = 5, 2
RECIPE = {
    "_target_": "eqmol.models.Potential",
    "elements": [29],
    "e0": [-0.5],
    "scale": 0.7,
    "backbone": {
        "_target_": "eqmol.models.MACE",
        "backend": "grid",
        "family": "gaunt",
        "parity": "o3",
        "degree": 1,
        "filter_degree": 2,
        "channels": 16,
        "layers": 2,
        "correlation": 2,
        "fields": 1,
        "cutoff": 4.0,
        "elements": [29],
        "avg_num_neighbors": 18.0,
    },
}


def model() -> Potential:
    """The same untrained model in every process."""
    torch.manual_seed(0)
    with default_dtype(torch.float32):
        made = build(RECIPE)
    assert isinstance(made, Potential)
    return made.eval()


def row(atoms_per_process: int) -> str:
    """Run some steps of a crystal that grows with the number of processes."""
    world = MPI.COMM_WORLD
    cells = max(2, round((atoms_per_process / 4) ** (1 / 3)))
    crystal = bulk("Cu", cubic=True)
    side = crystal.cell.array[0, 0]
    counts = (cells * world.size, cells, cells)
    lmp = lammps(cmdargs=["-screen", "none", "-log", "none"])
    lmp.commands_list(
        [
            "units metal",
            f"processors {world.size} 1 1",
            f"lattice fcc {side}",
            "region box block " + " ".join(f"0 {count}" for count in counts),
            "create_box 1 box",
            "create_atoms 1 box",
            "mass 1 63.546",
        ]
    )
    potential = LammpsPotential(lmp, model(), ["Cu"], verify=False)
    spent: list[float] = []
    evaluate = potential._potential

    def timed(*arguments: Any) -> Any:
        begin = time.process_time()
        part = evaluate(*arguments)
        spent.append(time.process_time() - begin)
        return part

    potential._potential = timed  # type: ignore[assignment]
    lmp.commands_list(["velocity all create 100 7", "fix 1 all nve", f"run {WARM + STEPS - 1}"])
    seconds = max(world.allgather(statistics.median(spent[WARM:])))
    memory = max(world.allgather(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
    factor = max(world.allgather(potential.ghost_factor))
    own = lmp.get_natoms() // world.size
    lmp.close()
    return (
        f"| {world.size} | {own:,} | {1000 * seconds:,.0f} | {1e6 * seconds / own:.0f} | {factor:.1f} | {memory:,.0f} |"
    )


if __name__ == "__main__":
    for number in map(int, sys.argv[1:] or ["500", "2000", "5000", "10000", "20000"]):
        line = row(number)
        if MPI.COMM_WORLD.rank == 0:
            print(line, flush=True)
