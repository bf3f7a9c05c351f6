"""Time and memory of every tensor-product algorithm against the degree, written as CSV as they are measured, then printed.

    python benchmarks/products.py [--degrees 1 2 3 4] [--channels 64] [--csv products.csv] [--device cpu] ...

For each operation, family and degree the algorithms run interleaved in one process after a warm-up; medians are shown. "forward"
is evaluation without gradients; "double backward" is what training on forces does: forward, gradient of a scalar with respect
to features (and edge vectors), and the gradient of that gradient's square with respect to features and weights.
On the CPU: wall time on ``--threads`` threads and process time (which does not see other jobs) on the same run.
Memory is the peak on top of the inputs: resident memory on Linux, allocated memory on CUDA.
"""

import argparse
import csv
import ctypes
import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from eqmol.ops import RadialWeight, Spec
from eqmol.ops.contract import TensorProduct
from eqmol.ops.registry import ALGORITHMS, can_run, create
from eqmol.so3.layout import dim

CLEAR_PEAK = Path("/proc/self/clear_refs")


@dataclass
class Row:
    """One measurement; times in milliseconds, memory in MiB."""

    operation: str
    family: str
    parity: str
    degree: int
    backend: str
    rows: int
    channels: int
    weights: int
    forward_ms: float
    forward_cpu_ms: float
    forward_mib: float
    double_backward_ms: float
    double_backward_cpu_ms: float
    double_backward_mib: float


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--operations", nargs="+", default=["convolution", "product", "power"])
    parser.add_argument("--families", nargs="+", default=["coupled", "gaunt"])
    parser.add_argument("--backends", nargs="+", default=list(ALGORITHMS), choices=ALGORITHMS)
    parser.add_argument("--degrees", nargs="+", type=int, default=[1, 2, 3, 4])
    parser.add_argument("--parity", default="o3", choices=["o3", "so3"])
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--nodes", type=int, default=200)
    parser.add_argument("--edges", type=int, default=6000, help="of a convolution")
    parser.add_argument("--order", type=int, default=3, help="of a power (output degree 1)")
    parser.add_argument("--largest-coupled-power", type=int, default=3, help="degree beyond which it is left out")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--csv", type=Path, default=Path("products.csv"))
    return parser.parse_args()


def specs(options: argparse.Namespace) -> Iterator[Spec]:
    for operation in options.operations:
        for family in options.families:
            for degree in options.degrees:
                if operation != "power":
                    yield Spec(operation, family, options.parity, degree, degree, degree)
                elif family == "gaunt" or degree <= options.largest_coupled_power:
                    yield Spec(operation, family, options.parity, degree, 0, min(degree, 1), options.order)


class Problem:
    """Inputs of one spec, the same for every algorithm."""

    def __init__(self, spec: Spec, options: argparse.Namespace) -> None:
        torch.manual_seed(0)
        where = {"device": options.device, "dtype": getattr(torch, options.dtype)}
        self.spec, self.nodes, channels, edges = spec, options.nodes, options.channels, options.edges
        self.features = [torch.randn(self.nodes, dim(spec.degree_in), channels, **where).requires_grad_()]
        if spec.operation == "convolution":
            self.vectors = torch.randn(edges, 3, **where).requires_grad_()
            self.senders = torch.randint(self.nodes, (edges,), device=options.device)
            self.receivers = torch.sort(torch.randint(self.nodes, (edges,), device=options.device)).values
            self.weights = [torch.randn(edges, 64, **where) / 8, torch.randn(64, spec.num_weights, channels, **where)]
        elif spec.operation == "product":
            self.features.append(torch.randn(self.nodes, dim(spec.degree_filter), channels, **where).requires_grad_())
            self.weights = [torch.randn(spec.num_weights, channels, **where)]
        else:
            self.group = torch.randint(4, (self.nodes,), device=options.device)
            self.weights = [torch.randn(4, spec.num_weights, channels, **where)]
        for weight in self.weights:
            weight.requires_grad_()

    def evaluate(self, op: TensorProduct) -> Tensor:
        if self.spec.operation == "convolution":
            weight = RadialWeight(*self.weights)
            return op(self.features[0], op.geometry(self.vectors), weight, self.senders, self.receivers, self.nodes)
        return op(*self.features, *self.weights, *([self.group] if self.spec.operation == "power" else []))

    def forward(self, op: TensorProduct) -> None:
        with torch.no_grad():
            self.evaluate(op)

    def double_backward(self, op: TensorProduct) -> None:
        inputs = [*self.features, *([self.vectors] if self.spec.operation == "convolution" else [])]
        scalar = self.evaluate(op).square().sum()
        slopes = torch.autograd.grad(scalar, inputs, create_graph=True)
        torch.autograd.grad(sum(s.square().sum() for s in slopes), [*inputs, *self.weights])


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def peak_mib(call: Callable[[], None], device: str) -> float:
    """Peak memory of one call on top of what was in use; nan where the system does not tell."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if not CLEAR_PEAK.exists():
        call()
        return float("nan")
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # freed blocks that the allocator keeps would hide what the call takes
    before = _resident("VmRSS")
    CLEAR_PEAK.write_text("5")
    call()
    return _resident("VmHWM") - before


def _resident(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def interleaved(calls: dict[str, Callable[[], None]], repeats: int, device: str) -> dict[str, tuple[float, float]]:
    """Median wall and process time of each call in ms, measured in turn."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            synchronize(device)
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            synchronize(device)
            times[name].append((1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)))
    return {name: tuple(map(statistics.median, zip(*t, strict=True))) for name, t in times.items()}  # type: ignore[misc]


def measure(spec: Spec, options: argparse.Namespace) -> list[Row]:
    problem = Problem(spec, options)
    names = [
        b for b in options.backends if can_run(b, spec.family) and (b != "escn" or spec.operation == "convolution")
    ]
    ops = {b: create(spec, b).to(options.device, getattr(torch, options.dtype)) for b in names}
    results = {}
    for kind in ("forward", "double_backward"):
        calls = {name: (lambda op=op, kind=kind: getattr(problem, kind)(op)) for name, op in ops.items()}
        memory = {name: peak_mib(call, options.device) for name, call in calls.items()}  # also the warm-up
        results[kind] = interleaved(calls, options.repeats, options.device), memory
    rows = options.edges if spec.operation == "convolution" else options.nodes
    head = spec.operation, spec.family, spec.parity, spec.degree_in
    return [
        Row(
            *head, n, rows, options.channels, spec.num_weights, *(v for t, m in results.values() for v in (*t[n], m[n]))
        )
        for n in names
    ]


def write(rows: list[Row], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(map(asdict, rows))


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    table = Table(title=f"{options.device}, {options.threads} threads, {options.dtype}, {options.channels} channels")
    for title in ("operation", "family", "degree", "backend", "weights", "forward ms", "(cpu)", "MiB"):
        table.add_column(title, justify="left" if title in ("operation", "family", "backend") else "right")
    for title in ("double backward ms", "(cpu)", "MiB"):
        table.add_column(title, justify="right")
    rows: list[Row] = []
    for spec in specs(options):
        for row in measure(spec, options):
            rows.append(row)
            numbers = list(asdict(row).values())[8:]
            cells = [row.operation, row.family, row.degree, row.backend, row.weights, *(f"{v:.1f}" for v in numbers)]
            table.add_row(*map(str, cells))
            print(f"{row.operation} {row.family} degree {row.degree} {row.backend}", file=sys.stderr)
        write(rows, options.csv)
    Console(width=max(Console().width, 120)).print(table)
    print(f"written: {options.csv}")


if __name__ == "__main__":
    main()
