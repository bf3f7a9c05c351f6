"""Draw time against degree for one convolution by every algorithm, from docs/benchmarks/degree.csv.

    python benchmarks/degree.py [FOLDER]        (default: docs/figures)

The numbers are those of benchmarks/products.py; docs/benchmarks/degree.txt has the commands and the machine. Up to degree 4
compiled kernels compute the same terms for every algorithm but ``escn``: one curve stands for them.
"""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from eqmol.plots import COLORS

ROOT = Path(__file__).parents[1]
DATA = ROOT / "docs" / "benchmarks" / "degree.csv"
#: Algorithm -> label at the end of its curve, from the top.
LABELS = {
    "gaunt_fft": "gaunt_fft: by FFTs",
    "cg": "cg: Clebsch-Gordan sums",
    "escn": "escn: SO(2) in the edge frame",
    "gaunt": "gaunt: 2D Fourier series",
    "grid": "grid: points on the sphere",
    "compiled": "compiled",
}
#: Points up from the end of a curve to its label, where labels would meet.
OFFSETS = {"gaunt": 3, "grid": -9}
#: Highest degree of the specs that are compiled.
COMPILED = 4
#: File -> colour of text and axes, and colours of the curves.
THEMES = {
    "speed.svg": ("#1f2328", (COLORS[5], *COLORS[:4], "#1f2328")),
    "speed-dark.svg": ("#d0d7de", (COLORS[5], "#56B4E9", *COLORS[1:4], "#d0d7de")),
}


def curves() -> dict[str, list[tuple[int, float]]]:
    """Return the degree and the milliseconds of every algorithm, and of the compiled terms."""
    with DATA.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["family"] == "gaunt"]
    lines = {name: [row for row in rows if (row["kernels"], row["backend"]) == ("off", name)] for name in LABELS}
    lines["compiled"] = [
        r for r in rows if (r["kernels"], r["backend"]) == ("auto", "grid") and int(r["degree"]) <= COMPILED
    ]
    return {
        name: [(int(r["degree"]), float(r["double_backward_cpu_ms"])) for r in line] for name, line in lines.items()
    }


def draw(path: Path, ink: str, colors: Sequence[str]) -> None:
    """Write one figure."""
    figure = Figure(figsize=(7.2, 3.9), layout="constrained")
    axes = figure.subplots()
    for color, (name, points) in zip(colors, curves().items(), strict=True):
        degrees, milliseconds = zip(*points, strict=True)
        style = "--" if name == "compiled" else "-"
        axes.plot(degrees, milliseconds, style, marker="o", markersize=5, linewidth=2, color=color)
        axes.annotate(
            LABELS[name],
            (degrees[-1], milliseconds[-1]),
            (8, OFFSETS.get(name, -3)),
            textcoords="offset points",
            color=color,
            weight="bold",
        )
    ticks = [20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000]
    axes.set(xlabel="highest degree of the features", ylabel="CPU time / ms", yscale="log", xlim=(0.9, 6.1))
    axes.set_xticks(range(1, 7))
    axes.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.grid(color=ink, alpha=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(ink)
    axes.tick_params(colors=ink)
    axes.xaxis.label.set_color(ink)
    axes.yaxis.label.set_color(ink)
    with mpl.rc_context({"svg.hashsalt": "eqmol", "font.size": 10}):
        figure.savefig(path, transparent=True, metadata={"Date": None})


def main() -> None:
    """Write the figure for a light and a dark page."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for name, (ink, colors) in THEMES.items():
        draw(folder / name, ink, colors)


if __name__ == "__main__":
    main()
