"""Results as CSV, as a Markdown table, and as a log-log plot."""

import csv
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator

from benchmarks.peers.report import MARKS
from benchmarks.steps.step import FORCES, MODELS
from eqmol.files import replacing


def write(folder: Path, rows: list[dict[str, Any]]) -> None:
    """``steps.csv`` and ``steps.png`` in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "steps.csv") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    plot(folder / "steps.png", rows)


def markdown(rows: list[dict[str, Any]]) -> str:
    """Milliseconds and MiB, a row per kind of forces, family and degree."""
    backends = MODELS["gaunt"][1]
    cells: dict[tuple, dict[str, str]] = {}
    for row in rows:
        text = f"{row['step_ms']:.0f} · {row['peak_mib']:.0f}" if row["outcome"] == "ok" else row["outcome"]
        cells.setdefault((row["forces"], row["family"], row["degree"]), {})[row["backend"]] = text
    lines = [f"| forces | family | degree | {' | '.join(backends)} |", "|---" * (3 + len(backends)) + "|"]
    lines += [
        f"| {' | '.join(map(str, [*key, *(found.get(b, '') for b in backends)]))} |" for key, found in cells.items()
    ]
    return "\n".join(lines) + "\n"


def plot(path: Path, rows: list[dict[str, Any]]) -> None:
    """Time and memory against the degree, log-log, a column per kind of forces; the coupled family is dashed."""
    lines: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in (row for row in rows if row["outcome"] == "ok"):
        lines.setdefault((row["forces"], row["family"], row["backend"]), []).append(row)
    quantities = {"step_ms": "ms per training step, CPU time", "peak_mib": "MiB, peak of a training step"}
    figure, axes = plt.subplots(2, 2, figsize=(9.5, 7.5), sharex=True, sharey="row", layout="constrained")
    for (i, quantity), (j, forces) in product(enumerate(quantities), enumerate(FORCES)):
        axes[i, j].set(xscale="log", yscale="log")
        for (_, family, backend), points in ((key, points) for key, points in lines.items() if key[0] == forces):
            color, marker = MARKS[backend]
            style = "-" if family == "gaunt" else "--"
            degrees, values = [p["degree"] for p in points], [p[quantity] for p in points]
            axes[i, j].plot(degrees, values, style, color=color, marker=marker, label=f"{family}, {backend}")
        ticks = sorted({row["degree"] for row in rows})
        axes[i, j].set_xticks(ticks, list(map(str, ticks)))
        axes[i, j].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes[i, j].yaxis.set_major_formatter("{x:g}")
        axes[i, j].minorticks_off()
        axes[i, j].grid(alpha=0.3)
        axes[0, j].set_title(f"{forces} forces")
        axes[1, j].set_xlabel("degree")
        axes[i, 0].set_ylabel(quantities[quantity])
    for axis in axes[0]:
        if axis.lines:
            axis.legend(frameon=False, fontsize=9)
    with replacing(path, "wb") as file:
        figure.savefig(file, dpi=110)
    plt.close(figure)
