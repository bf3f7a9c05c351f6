"""Energy and forces of 10 to 100,000 atoms through the ASE calculator: time, memory, and two threads against one.

    python -m benchmarks.sizes [--backend cg] [--threads 1 2] [--atoms 10 100 1000] [--csv docs/benchmarks/sizes.csv]

The network of :mod:`benchmarks.networks`, 64 channels of degree 1, cells of hydrogen and oxygen at 0.1 atoms per Å³. Every size
runs in a process of its own. Milliseconds are medians of calls after a small move; below 20,000 atoms the first is not counted.
Memory is the largest that the process had beyond what it needed for ten atoms. With one thread CPU time is measured, which other
jobs hardly change, with more wall time, which means something on an idle machine alone. Exponents are those of neighbouring sizes.
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

from benchmarks.networks import ROOT, Eqmol, cell, memory, write

ATOMS = (10, 100, 1_000, 10_000, 100_000)


def measure(backend: str, number: int, threads: int) -> dict[str, Any]:
    """Atoms, edges, milliseconds of a call and MiB."""
    torch.set_num_threads(threads)
    calculator = Eqmol(backend, 64, 1).calculator()
    small, atoms = cell(10), cell(number)
    small.calc = atoms.calc = calculator
    small.get_forces()
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # begins a new VmHWM
    clock = time.process_time if threads == 1 else time.perf_counter
    rng, start, seconds = np.random.default_rng(1), atoms.positions.copy(), []
    while len(seconds) < 3 or sum(seconds) < 1.0:
        atoms.positions = start + rng.normal(0, 0.003, start.shape)
        begin = clock()
        atoms.get_forces()
        seconds.append(clock() - begin)
        if number >= 20_000:
            break
    median = 1e3 * statistics.median(seconds[1:] or seconds)
    edges = calculator._graph(atoms).edge_index.shape[1]
    return {"atoms": len(atoms), "edges": edges, "ms": round(median, 2), "mib": round(memory("VmHWM") - before)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", choices=("cg", "grid"), default="cg")
    parser.add_argument("--threads", type=int, nargs="*", default=[1])
    parser.add_argument("--atoms", type=int, nargs="*", default=list(ATOMS))
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print("\n" + json.dumps(measure(options.backend, options.atoms[0], options.threads[0])))
        return
    rows: list[dict[str, Any]] = []
    for threads in options.threads:
        last: dict[str, Any] | None = None
        for number in options.atoms:
            command = [sys.executable, "-m", "benchmarks.sizes", "--one", "--backend", options.backend]
            command += ["--threads", str(threads), "--atoms", str(number)]
            environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
            done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            per = {"exponent": "", "mib_exponent": ""}
            if last is not None:
                steps = math.log(found["atoms"] / last["atoms"])
                per = {
                    "exponent": round(math.log(found["ms"] / last["ms"]) / steps, 2),
                    "mib_exponent": round(math.log(max(found["mib"], 1) / max(last["mib"], 1)) / steps, 2),
                }
            last = found
            rows.append({"backend": options.backend, "threads": threads, **found, **per})
            print(*(f"{key}={value}" for key, value in rows[-1].items()), flush=True)
    if options.csv is not None:
        write(rows, options.csv)


if __name__ == "__main__":
    main()
