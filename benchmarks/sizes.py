"""Energy and forces of 10 to 100,000 atoms through the ASE calculator: time, memory, and several threads against one.

    python -m benchmarks.sizes [--backend cg] [--threads 1 2] [--atoms 10 100 1000] [--beside 1] [--csv docs/benchmarks/sizes.csv]

The network of :mod:`benchmarks.networks`, 64 channels of degree 1, cells of hydrogen and oxygen at 0.1 atoms per Å³. Every size
runs in a process of its own, in which the numbers of threads take turns. Of each there are two medians of calls after a small move,
the first of which is not counted below 20,000 atoms: CPU time of the whole process, which other jobs hardly change, and wall time,
which is what a user waits for and means something on an idle machine alone (``load`` is that of the machine, this benchmark
included). ``faster`` compares wall times: how many times faster than the first number of threads. Exponents are those of CPU time
and memory between neighbouring sizes. Memory is the largest that the process had beyond what it needed for ten atoms. With
``--beside`` other processes count meanwhile, each on one thread.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.networks import ROOT, Eqmol, Sizes, cell, memory, write

ATOMS = (10, 100, 1_000, 10_000, 100_000)


def measure(backend: str, number: int, threads: list[int]) -> list[dict[str, Any]]:
    """Rows of every number of threads: atoms, edges, milliseconds of a call and MiB."""
    torch.set_num_threads(1)
    calculator = Eqmol(backend, Sizes()).calculator()
    small, atoms = cell(10), cell(number)
    small.calc = atoms.calc = calculator
    small.get_forces()
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # begins a new VmHWM
    rng, start = np.random.default_rng(1), atoms.positions.copy()
    seconds: dict[int, list[tuple[float, float]]] = {each: [] for each in threads}
    begin = time.perf_counter()
    while len(seconds[threads[0]]) < 4 or time.perf_counter() - begin < 2.0 * len(threads):
        for each, found in seconds.items():
            torch.set_num_threads(each)
            atoms.positions = start + rng.normal(0, 0.003, start.shape)
            clocks = time.process_time(), time.perf_counter()
            atoms.get_forces()
            found.append((time.process_time() - clocks[0], time.perf_counter() - clocks[1]))
        if number >= 20_000:
            break
    edges, mib = calculator._graph(atoms).edge_index.shape[1], round(memory("VmHWM") - before)
    rows, first = [], 0.0
    for each, found in seconds.items():
        cpu, wall = (1e3 * statistics.median(column) for column in zip(*(found[1:] or found), strict=True))
        first = first or wall
        row = {"backend": backend, "atoms": len(atoms), "edges": edges, "threads": each, "cpu_ms": round(cpu, 2)}
        rows.append(row | {"wall_ms": round(wall, 2), "faster": round(first / wall, 2), "mib": mib})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", choices=("cg", "grid"), default="cg")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--atoms", type=int, nargs="*", default=list(ATOMS))
    parser.add_argument("--beside", type=int, default=0, help="other processes that are busy meanwhile")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print("\n" + json.dumps(measure(options.backend, options.atoms[0], options.threads)))
        return
    rows: list[dict[str, Any]] = []
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(options.beside)]
    try:
        last: dict[str, Any] | None = None
        for number in options.atoms:
            command = [sys.executable, "-m", "benchmarks.sizes", "--one", "--backend", options.backend]
            command += ["--atoms", str(number), "--threads", *map(str, options.threads)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            exponents = {"exponent": "", "mib_exponent": ""}
            if last is not None:
                steps = math.log(found[0]["atoms"] / last["atoms"])
                exponents = {
                    "exponent": round(math.log(found[0]["cpu_ms"] / last["cpu_ms"]) / steps, 2),
                    "mib_exponent": round(math.log(max(found[0]["mib"], 1) / max(last["mib"], 1)) / steps, 2),
                }
            last = found[0]
            for row in found:
                rows.append(row | exponents | {"load": round(os.getloadavg()[0], 1), "beside": options.beside})
                print(*(f"{key}={value}" for key, value in rows[-1].items()), flush=True)
    finally:
        for other in others:
            other.kill()
    if options.csv is not None:
        write(rows, options.csv)


if __name__ == "__main__":
    main()
