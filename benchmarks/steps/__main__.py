"""Time and memory of a training step of the Equiformer-style model against the degree, as CSV, table and plot.

    python -m benchmarks.steps [--degrees 1,2,3] [--quick] [OPTION=VALUE ...]

One frame of OC20 with 38 atoms (``$EQMOL_DATA/oc20``; without it a smaller one of the embedded sample), the configuration of
``model=gaunt`` or ``model=equiformer`` with ``data=oc20``, a cutoff of 6 Å and a filter of twice the degree; options of
``train.py`` change it. A step is forward, loss, backward and Adam. Each case runs in a process of its own, within limits of CPU
time and memory; to exceed them is a result. Algorithms take turns. Time is process time on one thread, the median of the steps
after the first; memory is the peak of what PyTorch's allocator hands out during a step, on top of weights, optimiser and batch.
"""

import argparse
from itertools import product
from pathlib import Path

import torch

from benchmarks.steps.report import markdown, write
from benchmarks.steps.step import FORCES, MODELS, Case, slab
from benchmarks.steps.worker import Limits, measure
from eqmol.tuning.cache import hardware


def arguments() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--degrees", type=names, default=list("123456"), help="as 1,2,3")
    parser.add_argument("--forces", type=names, default=list(FORCES))
    parser.add_argument("--models", type=names, default=list(MODELS))
    parser.add_argument("--backends", type=names, default=list(MODELS["gaunt"][1]))
    parser.add_argument("--seconds", type=int, default=60, help="CPU time that a case may take")
    parser.add_argument("--memory", type=float, default=8.0, help="GiB that a case may take")
    parser.add_argument("--quick", action="store_true", help="one timed step per case")
    parser.add_argument("--folder", type=Path, default=Path("docs/benchmarks"), help="for steps.csv and steps.png")
    parser.add_argument("options", nargs="*", help="of train.py, as model.cutoff=5")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    limits = Limits(options.seconds, options.seconds / 10, 1 if options.quick else 7, options.memory)
    print(f"{slab(1.0).source}; {hardware(torch.device('cpu'))}", flush=True)
    rows = []
    for forces, model, degree in product(options.forces, options.models, map(int, options.degrees)):
        backends = [b for b in MODELS[model][1] if b in options.backends]
        for row in measure([Case(forces, model, degree, b, tuple(options.options)) for b in backends], limits):
            rows.append(row)
            print(" ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()), flush=True)
    print(markdown(rows))
    write(options.folder, rows)


if __name__ == "__main__":
    main()
