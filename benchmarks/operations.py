"""Compiled tensor products one by one: beside the torch algorithm, and beside what the processor could do.

    python -m benchmarks.operations [--channels 64] [--degrees 1 2 3] [--csv docs/benchmarks/operations.csv]

Coupled family, parity o3, float32, process CPU time of one thread, medians of interleaved rounds after a warm-up, compilation
excluded.

*Operations*: ``cg`` with and without kernels, evaluated alone and with its gradients by all arguments. Products L x L -> L, powers
of order 3 L -> 1 of four elements, convolutions L x L -> L of 30 edges per node, with weights of edges given (a radial matrix of
one row, which takes no time) and including the matrix [64, weights x channels].

*Kernels*: every kernel by itself, of 500 nodes or of as many edges as weights are made of at a time, beside the time that its
multiply-adds take at the rate of fused multiply-adds that a loop in registers reaches in the same run. An instruction multiplies
and adds once at most, so they are the larger one of the numbers of multiplications and of additions (results that are added to
memory or to other channels among them) of the expressions.
"""

import argparse
import ctypes
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.networks import write
from eqmol.cli.options import keep_freed_memory
from eqmol.ops import RadialWeight, Spec
from eqmol.ops.kernels import compiler, forms, library, stretches
from eqmol.ops.kernels.expressions import SLOPE, Product, Program, Scaled, Sum
from eqmol.ops.kernels.programs import edge_program, power_program, product_program
from eqmol.ops.registry import create
from eqmol.so3.layout import dim
from eqmol.tuning.cache import hardware

NODES, NEIGHBORS, HIDDEN, GROUPS = 100, 30, 64, 4
#: Calls are averaged over so many seconds.
SECONDS = 0.005

#: Twelve chains of multiply-adds, each in a register of its own.
FUSED = f"""typedef float V __attribute__((vector_size(VECTOR)));
extern "C" __attribute__((visibility("default"))) float fused(long n, float b) {{
  V f = b - V{{}}, {", ".join(f"a{i} = f * {i}.0f" for i in range(12))};
  for (long k = 0; k < n; k++) {{ {" ".join(f"a{i} = a{i} * f + f;" for i in range(12))} }}
  return ({" + ".join(f"a{i}" for i in range(12))})[0];
}}
"""


def specs(degree: int) -> list[Spec]:
    """The operations of a degree."""
    return [
        Spec("product", "coupled", "o3", degree, degree, degree),
        Spec("power", "coupled", "o3", degree, 0, 1, 3),
        Spec("convolution", "coupled", "o3", degree, degree, degree),
    ]


def seconds_of(runs: dict[Any, Callable[[], Any]], rounds: int) -> dict[Any, float]:
    """Medians of CPU seconds of a call; runs take turns."""
    calls = {}
    for key, run in runs.items():
        run()
        begin = time.process_time()
        run()
        calls[key] = max(1, math.ceil(SECONDS / max(time.process_time() - begin, 1e-6)))
    times: dict[Any, list[float]] = {key: [] for key in runs}
    for _ in range(rounds):
        for key, run in runs.items():
            run()  # the others have emptied the caches
            begin = time.process_time()
            for _ in range(calls[key]):
                run()
            times[key].append((time.process_time() - begin) / calls[key])
    return {key: statistics.median(found) for key, found in times.items()}


def operation(spec: Spec, channels: int, hidden: int) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """An operation as a function of its arguments, and these."""
    rng = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng).requires_grad_()

    x = random(NODES if spec.operation == "convolution" else 5 * NODES, dim(spec.degree_in), channels)
    op = create(spec, "cg")
    if spec.operation == "product":
        y = random(len(x), dim(spec.degree_filter), channels)
        return op, [x, y, random(spec.num_weights, channels)]
    if spec.operation == "power":
        groups = torch.randint(0, GROUPS, (len(x),), generator=rng)
        return lambda x, weight: op(x, weight, groups), [x, random(GROUPS, spec.num_weights, channels)]
    edges = NEIGHBORS * len(x)
    receivers = torch.arange(edges) // NEIGHBORS
    senders = torch.randint(0, len(x), (edges,), generator=rng)

    def convolve(x: Tensor, vectors: Tensor, hidden: Tensor, matrix: Tensor) -> Tensor:
        return op(x, op.geometry(vectors), RadialWeight(hidden, matrix), senders, receivers, len(x))

    return convolve, [x, random(edges, 3), random(edges, hidden), random(hidden, spec.num_weights, channels)]


def compare(spec: Spec, channels: int, rounds: int, hidden: int = HIDDEN) -> dict[str, Any]:
    """Milliseconds of an operation with and without kernels."""
    runs: dict[tuple[str, str], Callable[[], Any]] = {}
    for mode in ("off", "auto"):
        run, arguments = operation(spec, channels, hidden)
        cotangent = torch.randn_like(run(*arguments).detach())

        def forward(run=run, arguments=arguments) -> Tensor:
            with torch.no_grad():
                return run(*arguments)

        def gradients(run=run, arguments=arguments, cotangent=cotangent) -> tuple[Tensor, ...]:
            return torch.autograd.grad(run(*arguments), arguments, cotangent)

        for name, call in (("forward", forward), ("gradients", gradients)):
            runs[mode, name] = lambda call=call, mode=mode: with_kernels(mode, call)
    found = seconds_of(runs, rounds)
    row: dict[str, Any] = {"operation": spec.operation, "degrees": degrees(spec), "channels": channels}
    if spec.operation == "convolution":
        row["operation"] += ", weights given" if hidden == 1 else ", with the radial matrix"
    for name in ("forward", "gradients"):
        torch_ms, kernel_ms = (1e3 * found[mode, name] for mode in ("off", "auto"))
        row |= {f"{name}_torch_ms": round(torch_ms, 3), f"{name}_kernel_ms": round(kernel_ms, 3)}
        row[f"{name}_ratio"] = round(torch_ms / kernel_ms, 1)
    return row


def with_kernels(mode: str, call: Callable[[], Any]) -> Any:
    """Call with ``EQMOL_KERNELS`` set."""
    previous = library.DEFAULT
    library.DEFAULT = mode  # type: ignore[assignment]
    try:
        return call()
    finally:
        library.DEFAULT = previous


def degrees(spec: Spec) -> str:
    """As text."""
    second = "" if spec.operation == "power" else f" x {spec.degree_filter}"
    return f"{spec.degree_in}{second} -> {spec.degree_out}"


def rate() -> float:
    """Fused multiply-adds of float32 per second that one core does from registers."""
    chosen = compiler.find()
    assert chosen is not None, "no compiler"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fused.so"
        compiler.compile_source(chosen, FUSED.replace("VECTOR", str(compiler.vector_bytes())), path)
        fused = ctypes.CDLL(str(path)).fused
        fused.argtypes, fused.restype = [ctypes.c_long, ctypes.c_float], ctypes.c_float
        times = []
        for _ in range(9):
            begin = time.process_time()
            fused(500_000, 1e-9)
            times.append(time.process_time() - begin)
    return 500_000 * 12 * library.width(torch.float32) / statistics.median(times)


def multiply_adds(program: Program, sums: Sequence[str] = ()) -> int:
    """Of one node or edge and one channel; results of tensors ``sums`` are added to what is there."""
    nodes = [node for _, node in program.steps]
    multiplied = sum(isinstance(node, Product | Scaled) for node in nodes)
    added = sum(isinstance(node, Sum) for node in nodes) + sum(v.tensor in sums for v in program.results)
    return max(multiplied, added)


def node_kernel(spec: Spec, wanted: str, channels: int) -> tuple[Callable[[], Any], int]:
    """A call of a kernel of a product or a power, and its multiply-adds."""
    nodes, names = 5 * NODES, frozenset(wanted)
    if spec.operation == "power":
        program = power_program(spec, names, 0)
        groups = forms.Groups(torch.randint(0, GROUPS, (nodes,)), nodes, GROUPS, torch.device("cpu"))
        kernel = forms.power_kernel(spec, names, 0, "c++", torch.float32, "require")
    else:
        program, groups = product_program(spec, names), forms.Groups(None, nodes, 1, torch.device("cpu"))
        kernel = forms.product_kernel(spec, names, "c++", torch.float32, "require")
    assert kernel is not None
    shared = ("c", "w", SLOPE + "c", SLOPE + "w")
    tensors = {
        name: torch.randn(groups.number if name in shared else nodes, program.sizes[name], channels)
        for name in (*program.reads, *program.writes)
    }
    is_sum = any(name in program.writes for name in shared)
    sizes = channels, groups.number
    bounds = (0, -(-channels // library.width(torch.float32)) if is_sum else groups.number)
    x = tensors[program.reads[0]]
    count = nodes * channels * multiply_adds(program, shared)
    return lambda: kernel(sizes, groups.sorted(), tensors, x, bounds), count


def edge_kernel(spec: Spec, wanted: str, channels: int, table: bool) -> tuple[Callable[[], Any], int]:
    """A call of a kernel of a convolution, and its multiply-adds."""
    names, nodes, components = frozenset(wanted), NODES, dim(spec.degree_filter)
    program = edge_program(spec, names)
    if table:
        kernel = forms.table_kernel(spec, names, components, torch.float32, "require")
    else:
        kernel = forms.edge_kernel(spec, names, frozenset(), components, "c++", torch.float32, "require")
    assert kernel is not None
    rows, width = spec.num_weights, library.width(torch.float32)
    # as many edges as there are weights of at a time
    edges = max(1, forms.CHUNK // (rows * channels))
    nodes_of = {"x": nodes, "v": nodes, SLOPE + "x": nodes, SLOPE + "v": nodes}
    tensors = {
        name: torch.randn(nodes_of.get(name, edges), program.sizes[name], channels)
        for name in (*program.reads, *program.writes)
    }
    tensors |= {"m": torch.randn(edges, components), SLOPE + "y": torch.randn(edges, components)}
    intervals = 16  # in the cache
    tensors["table"] = torch.randn(intervals, -(-channels // width), 6, rows, width)
    tensors |= {"fraction": torch.rand(edges), SLOPE + "fraction": torch.rand(edges)}
    senders, receivers = (torch.randint(0, nodes, (edges,)) for _ in range(2))
    indices = [stretches.whole(edges), senders, receivers.sort().values]
    indices += [torch.randint(0, intervals, (edges,))] if table else []
    count = multiply_adds(program, (SLOPE + "x", SLOPE + "v", SLOPE + "y", *([] if table else [SLOPE + "w"])))
    if table:  # five of a polynomial of fifth degree, four of its slope, which is multiplied by that of the weight
        count += rows * (5 if "w" not in names else 5 + 4 + 1)
    sizes = (channels, nodes, 1) if table else (channels, nodes, 1, 0)
    return lambda: kernel(sizes, indices, tensors, tensors["x"], (0, 1)), edges * channels * count


def limits(spec: Spec, channels: int, rounds: int, speed: float) -> list[dict[str, Any]]:
    """Rows of every kernel of an operation."""
    found = []
    if spec.operation == "convolution":
        runs = {
            (wanted, table): edge_kernel(spec, wanted, channels, table)
            for table in (False, True)
            for wanted in ("v", "xwm")
        }
    else:
        sets = ("v", "x", "xc") if spec.operation == "power" else ("v", "xy", "xyw")
        runs = {(wanted, False): node_kernel(spec, wanted, channels) for wanted in sets}
    times = seconds_of({key: run for key, (run, _) in runs.items()}, rounds)
    for (wanted, table), (_, count) in runs.items():
        seconds, least = times[wanted, table], count / speed
        row = {
            "operation": spec.operation + (", table" if table else ""),
            "degrees": degrees(spec),
            "channels": channels,
        }
        row |= {"derivatives": wanted, "us": round(1e6 * seconds, 1), "limit_us": round(1e6 * least, 1)}
        found.append(row | {"over_limit": round(seconds / least, 2)})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--degrees", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--csv", type=Path, help="of the operations; the kernels go next to it, to NAME-limits.csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as commands do
    speed = rate()
    print(f"{hardware(torch.device('cpu'))}: {speed / 1e9:.1f} billion fused multiply-adds per second")
    operations, kernel_rows = [], []
    for degree in options.degrees:
        for spec in specs(degree):
            for hidden in (1, HIDDEN) if spec.operation == "convolution" else (HIDDEN,):
                operations.append(compare(spec, options.channels, options.rounds, hidden))
                print(*(f"{key}={value}" for key, value in operations[-1].items()), flush=True)
            for row in limits(spec, options.channels, options.rounds, speed):
                kernel_rows.append(row)
                print(*(f"{key}={value}" for key, value in row.items()), flush=True)
    if options.csv is not None:
        write(operations, options.csv)
        write(kernel_rows, options.csv.with_stem(options.csv.stem + "-limits"))


if __name__ == "__main__":
    main()
