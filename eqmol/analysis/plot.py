"""Time against degree, drawn from the CSV files of a report."""

import csv
from collections import defaultdict
from itertools import cycle
from pathlib import Path

from matplotlib.figure import Figure

from eqmol.plots import COLORS, write_png


def time_against_degree(timings: Path, products: Path, path: Path) -> None:
    """Draw every operation in a panel of its own, log-log, with fitted and theoretical exponents in the legend.

    Args:
        timings: degrees.csv of a report.
        products: products.csv of the same report.
        path: PNG file to write.
    """
    curves: dict[str, dict[tuple[str, str], list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in _read(timings):
        curves[row["operation"]][row["family"], row["algorithm"]].append(
            (int(row["degree"]), float(row["microseconds"]))
        )
    labels = {(r["operation"], r["family"], r["algorithm"]): _label(r) for r in _read(products)}
    algorithms = dict.fromkeys(algorithm for lines in curves.values() for _, algorithm in lines)
    colors = dict(zip(algorithms, cycle(COLORS), strict=False))
    figure = Figure(figsize=(4.6 * len(curves), 4.8), layout="constrained")
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for axes, (operation, lines) in zip(panels, curves.items(), strict=True):
        for (family, algorithm), points in lines.items():
            x, y = zip(*((degree + 1, time) for degree, time in points), strict=True)
            style = "-" if family == "coupled" else "--"
            axes.plot(
                x,
                y,
                style,
                marker="o",
                markersize=4,
                color=colors[algorithm],
                label=labels[operation, family, algorithm],
            )
        ticks = sorted({degree + 1 for points in lines.values() for degree, _ in points})
        unit = "edge" if operation == "convolution" else "node"
        axes.set(title=operation, xscale="log", yscale="log", xlabel="degree + 1", ylabel=f"µs per {unit}")
        axes.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
        axes.set_xticks([], minor=True)
        axes.grid(which="both", color="0.92")
        axes.legend(
            fontsize="x-small",
            title="algorithm (family): fitted exponent, theory",
            title_fontsize="x-small",
            loc="upper center",
            bbox_to_anchor=(0.5, -0.14),
            ncols=2,
            frameon=False,
            handlelength=3.5,
        )
    write_png(figure, path, font_size=9)


def _label(row: dict[str, str]) -> str:
    slope = f"{float(row['exponent']):.1f}" if row["exponent"] else "-"
    return f"{row['algorithm']} ({row['family']}): {slope}, {row['exponent_theory'] or '-'}"


def _read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
