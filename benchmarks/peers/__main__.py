"""Benchmark eqmol's tensor products beside their peers, in the environment that `make bench` builds.

    .venv-bench/bin/python -m benchmarks.peers product-2 convolution-3 --methods cg,grid --quick     # seconds
    .venv-bench/bin/python -m benchmarks.peers convolution-edges                                     # every method
    .venv-bench/bin/python -m benchmarks.peers --list
    .venv-bench/bin/python -m benchmarks.peers --output docs/benchmarks                              # everything

Cases are chosen by name, or by its beginning up to a hyphen. Methods: cg, escn, gaunt, gaunt_fft, grid and the peers e3nn-0.4.4,
e3nn-current, mace and published; the baseline (e3nn 0.4.4, for powers mace) always runs. `published` is timed when --published
names the folder efficiency-comparison of a checkout of github.com/lsj2408/Gaunt-Tensor-Product.

A case runs forward and backward in float32, one process per method, in turn, after a warm-up. Columns: medians of process CPU time
on one thread, wall time on two threads, and the peak of allocated memory of a call; ratios are baseline / method.
"""

import argparse
import os
import statistics
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads of a process that waits must not spin
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler announces itself

from benchmarks.peers import convolution, power, product
from benchmarks.peers.case import Case
from benchmarks.peers.report import Row, write
from benchmarks.peers.worker import Worker

#: Seconds of calls between two looks at the clock, if a call is shorter.
SAMPLE = 0.03
SUITES = {"product": product, "convolution": convolution, "power": power}


def interleaved(workers: dict[str, Worker], threads: int, clock: str, budget: float) -> dict[str, float]:
    """Median seconds of every method, measured in turn within about ``budget`` seconds."""
    cost = {name: worker.ask("warm", threads) for name, worker in workers.items()}
    number = {name: max(1, round(SAMPLE / seconds)) for name, seconds in cost.items()}
    rounds = min(15, max(3, int(budget / sum(cost[name] * number[name] for name in workers))))
    samples: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            samples[name].append(worker.ask("measure", number[name])[clock])
    return {name: statistics.median(times) for name, times in samples.items()}


def compare(case: Case, workers: dict[str, Worker], quick: bool) -> list[Row]:
    """All methods on one case, the baseline first; one that fails is named and left out."""
    about, able = {}, {}
    for name, worker in workers.items():
        try:
            about[name], able[name] = worker.ask("prepare", case), worker
        except RuntimeError as error:
            print(f"{case.name} {name}: {error}", file=sys.stderr)
    if not able:
        return []
    cpu = interleaved(able, 1, "cpu", 1.0 if quick else 4.0)
    wall = dict.fromkeys(able, float("nan")) if quick else interleaved(able, 2, "wall", 2.0)
    memory = {name: worker.ask("peak_memory") for name, worker in able.items()}
    ratios = [
        {name: values[next(iter(able))] / max(value, 1e-9) for name, value in values.items()}
        for values in (cpu, wall, memory)
    ]
    rows = []
    for name, (weights, error) in about.items():
        cpu_ratio, wall_ratio, memory_ratio = (ratio[name] for ratio in ratios)
        times = 1e3 * cpu[name], cpu_ratio, 1e3 * wall[name], wall_ratio
        rows.append(Row(case, name, weights, *times, memory[name], memory_ratio, error))
    return rows


def selected(names: list[str]) -> dict[str, list[Case]]:
    """Cases of every suite that carry one of the names, or begin with it up to a hyphen; no names select all."""

    def wanted(case: Case) -> bool:
        return not names or any(f"{case.name}-".startswith(f"{name}-") for name in names)

    return {suite: [case for case in module.CASES if wanted(case)] for suite, module in SUITES.items()}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", help="names of cases or their beginnings; all by default")
    parser.add_argument(
        "--methods", type=lambda text: text.split(","), help="methods beside the baseline; all by default"
    )
    parser.add_argument("--published", metavar="FOLDER", help="the published Gaunt code, see above")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, no wall time")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write tables and plots of the suites that ran")
    parser.add_argument("--list", action="store_true", help="print the names of cases")
    options = parser.parse_args()
    found = selected(options.cases)
    if not any(found.values()):
        parser.error(f"no case is named {' or '.join(options.cases)}; --list prints the names")
    if options.output and any(0 < len(cases) < len(SUITES[suite].CASES) for suite, cases in found.items()):
        parser.error(f"--output writes whole suites ({', '.join(SUITES)}); leave it out to run single cases")
    return options


def run(suite: str, cases: list[Case], options: argparse.Namespace) -> None:
    """Measure, print and, if asked, write the cases of one suite."""
    module = SUITES[suite]
    methods = [m for m in module.METHODS if not options.methods or m in options.methods or m == module.BASELINE]
    if not options.published and "published" in methods:
        methods.remove("published")
    workers = {method: Worker(method) for method in methods}
    rows: list[Row] = []
    for case in cases:
        found = compare(case, workers, options.quick)
        print(*found, sep="\n", flush=True)
        rows += found
    for worker in workers.values():
        worker.stop()
    if options.output:
        write(options.output, suite, rows, module.BASELINE)


def main() -> None:
    options = arguments()
    if options.published:
        os.environ["PUBLISHED_GAUNT"] = options.published  # of the workers
    for suite, cases in selected(options.cases).items():
        if options.list:
            print(*(case.name for case in cases), sep="\n")
        elif cases:
            run(suite, cases, options)


if __name__ == "__main__":
    main()
