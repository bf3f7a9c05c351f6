"""Benchmark eqmol's tensor products beside their peers.

    .venv-bench/bin/python -m benchmarks.peers product-2                             # a case: every method, a minute at most
    .venv-bench/bin/python -m benchmarks.peers product-2 convolution-3 --methods cg,grid --quick    # seconds
    .venv-bench/bin/python -m benchmarks.peers --list
    .venv-bench/bin/python -m benchmarks.peers --output docs/benchmarks              # everything, as `make bench`

Cases are chosen by the beginning of their names. Methods: cg, escn, gaunt, grid and the peers e3nn-0.4.4, e3nn-current, mace and
published; the baseline (e3nn 0.4.4, for powers mace) always runs. `published` is timed when --published names the folder
efficiency-comparison of a checkout of github.com/lsj2408/Gaunt-Tensor-Product.

A case runs forward and backward in float32, one process per method, in turn, after a warm-up. Columns: medians of process CPU
time on one thread, wall time on two threads, and peak resident memory of a call; ratios are baseline / method.
"""

import argparse
import os
import statistics
import sys
from dataclasses import dataclass

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads of a process that waits must not spin

from benchmarks.peers import convolution, power, product
from benchmarks.peers.case import Case
from benchmarks.peers.worker import Worker

SUITES = {"product": product, "convolution": convolution, "power": power}


@dataclass
class Row:
    """One method on one case; times in milliseconds, memory in MiB, ratios to the baseline's."""

    case: str
    method: str
    weights: int
    cpu_ms: float
    cpu_ratio: float
    wall_ms: float
    wall_ratio: float
    memory_mib: float
    memory_ratio: float
    error: float


def interleaved(workers: dict[str, Worker], threads: int, clock: int, budget: float) -> dict[str, float]:
    """Median seconds of every method, measured in turn within about ``budget`` seconds."""
    cost = {name: worker.ask("warm", threads) for name, worker in workers.items()}
    number = {name: max(1, round(0.004 / seconds)) for name, seconds in cost.items()}
    rounds = min(15, max(3, int(budget / sum(cost[name] * number[name] for name in workers))))
    samples: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            samples[name].append(worker.ask("measure", number[name])[clock])
    return {name: statistics.median(times) for name, times in samples.items()}


def compare(case: Case, workers: dict[str, Worker], quick: bool) -> list[Row]:
    """All methods on one case, the baseline first."""
    about = {name: worker.ask("prepare", case) for name, worker in workers.items()}
    nothing = dict.fromkeys(workers, float("nan"))
    cpu = interleaved(workers, 1, 1, 1.0 if quick else 4.0)
    wall = nothing if quick else interleaved(workers, 2, 0, 2.0)
    memory = {
        name: statistics.median(worker.ask("peak_memory") for _ in range(1 if quick else 3))
        for name, worker in workers.items()
    }
    first = next(iter(workers))
    return [
        Row(
            case.name,
            name,
            about[name][0],
            1e3 * cpu[name],
            cpu[first] / cpu[name],
            1e3 * wall[name],
            wall[first] / wall[name],
            memory[name],
            memory[first] / max(memory[name], 1e-3),
            about[name][1],
        )
        for name in workers
    ]


def show(rows: list[Row]) -> None:
    for row in rows:
        print(
            f"{row.case:24} {row.method:13} {row.weights:4d} weights  cpu {row.cpu_ms:9.2f} ms {row.cpu_ratio:7.2f}x  "
            f"wall {row.wall_ms:9.2f} ms {row.wall_ratio:7.2f}x  "
            f"{row.memory_mib:7.1f} MiB {row.memory_ratio:6.2f}x  error {row.error:.0e}"
        )
    sys.stdout.flush()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", default=[""], help="beginnings of names of cases; all by default")
    parser.add_argument(
        "--methods", type=lambda text: text.split(","), help="methods beside the baseline; all by default"
    )
    parser.add_argument("--published", metavar="FOLDER", help="the published Gaunt code, see above")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, no wall time")
    parser.add_argument("--list", action="store_true", help="print the names of cases")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.published:
        os.environ["PUBLISHED_GAUNT"] = options.published
    for suite in SUITES.values():
        cases = [case for case in suite.CASES if case.name.startswith(tuple(options.cases))]
        if options.list:
            print(*(case.name for case in cases), sep="\n")
        if options.list or not cases:
            continue
        chosen = [m for m in suite.METHODS if not options.methods or m in options.methods or m == suite.BASELINE]
        if not options.published and "published" in chosen:
            chosen.remove("published")
        workers = {method: Worker(method) for method in chosen}
        for case in cases:
            show(compare(case, workers, options.quick))
        for worker in workers.values():
            worker.stop()


if __name__ == "__main__":
    main()
