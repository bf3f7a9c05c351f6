"""Where products in O(L³) begin to pay: processor time of products L x L -> L of the gaunt family against L.

    python benchmarks/crossover.py [FOLDER]        (default: docs/benchmarks)

Writes crossover.csv and crossover.png. ``table`` is one dense table on the Gauss-Legendre grid, what ``grid`` would be without
Lebedev's points, the octahedron of degree 1, two steps and compiled kernels, which ``grid compiled`` and ``gaunt compiled`` alone
have. All run interleaved on one thread after a warm-up, float32, 256 rows, 32 channels: least and median milliseconds of processor
time, of the forward pass and of training on forces (forward, gradient, gradient of its square).
"""

import csv
import statistics
import sys
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from eqmol.ops import Product, Spec, product
from eqmol.ops.sampled import SampledProduct
from eqmol.plots import COLORS, write_png
from eqmol.so3.layout import dim
from eqmol.so3.quadrature import Rule, sphere_rule

ROWS, CHANNELS = 256, 32
DEGREES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16)
NAMES = ("table", "grid", "gaunt", "gaunt_fft", "grid compiled", "gaunt compiled")
REPEATS = {"forward": 6, "training": 3}


class Table(SampledProduct):
    """One dense table at every degree."""

    separable_degree = 99

    def rule(self, band: int, degree_out: int) -> Rule:
        return sphere_rule(band, degree_out)


def run(op: Product, x: Tensor, y: Tensor, weight: Tensor, mode: str) -> float:
    """Milliseconds of processor time."""
    begin = time.process_time()
    if mode == "forward":
        with torch.no_grad():
            op(x, y, weight)
    else:
        leaves = [t.detach().requires_grad_() for t in (x, y, weight)]
        slopes = torch.autograd.grad(op(*leaves).square().sum(), leaves[:2], create_graph=True)
        torch.autograd.grad(torch.stack([s.square().sum() for s in slopes]).sum(), leaves)
    return 1e3 * (time.process_time() - begin)


def measure(degree: int) -> list[dict[str, str | int | float]]:
    """A row for every algorithm and mode."""
    torch.manual_seed(0)
    spec = Spec("product", "gaunt", "o3", degree, degree, degree)
    ops: dict[str, Product] = {"table": Table(spec)}
    for name in NAMES[1:]:
        ops[name] = product(spec, name.split()[0])
    for name, op in ops.items():
        op.kernels = "require" if "compiled" in name else "off"
    x, y = (torch.randn(ROWS, dim(degree), CHANNELS) for _ in range(2))
    weight = torch.randn(spec.num_weights, CHANNELS)
    rows: list[dict[str, str | int | float]] = []
    for mode, repeats in REPEATS.items():
        times: dict[str, list[float]] = {name: [] for name in ops}
        for number in range(repeats + 1):
            for name, op in ops.items():
                # one repetition of the slowest says enough
                if number < 2 or name != "gaunt_fft":
                    times[name].append(run(op, x, y, weight, mode))
        for name, found in times.items():
            least, median = min(found[1:]), statistics.median(found[1:])
            rows.append({"degree": degree, "mode": mode, "backend": name, "least_ms": least, "median_ms": median})
    return rows


def draw(rows: list[dict[str, str | int | float]], path: Path) -> None:
    """Write the figure: a panel per mode, a curve per algorithm."""
    figure = Figure(figsize=(8.6, 3.4), layout="constrained")
    for axes, mode in zip(figure.subplots(1, 2), REPEATS, strict=True):
        for color, name in zip((*COLORS[:4], *COLORS[1:3]), NAMES, strict=True):
            own = [row for row in rows if (row["mode"], row["backend"]) == (mode, name)]
            x, t = ([float(row[key]) for row in own] for key in ("degree", "least_ms"))
            label = "one dense table" if name == "table" else name
            style = {"table": "--", "compiled": ":"}.get(name.split()[-1], "-")
            axes.plot(x, t, style, marker="o", markersize=4, color=color, label=label)
        axes.set(title=mode, xlabel="degree", yscale="log", xticks=range(0, DEGREES[-1] + 1, 4))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("processor time / ms")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    write_png(figure, path)


def main() -> None:
    """Measure, and write both files."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs" / "benchmarks"
    rows: list[dict[str, str | int | float]] = []
    for degree in DEGREES:
        rows += measure(degree)
        print(f"degree {degree}", flush=True)
        with (folder / "crossover.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    draw(rows, folder / "crossover.png")


if __name__ == "__main__":
    main()
