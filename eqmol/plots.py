"""Figures of a run, from the files that it wrote; never from a model."""

import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from math import erf, sqrt
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray

from eqmol.files import replacing
from eqmol.units import quantity as amount
from eqmol.units import shown_unit

#: Colour-blind safe (Okabe and Ito).
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")

#: Sets side by side in a parity plot.
COLUMNS = 4
_WIDTH, _HEIGHT = 3.3, 4.4  #: of what one set shows of a quantity, inches


@dataclass(frozen=True)
class Quantity:
    """What a parity plot shows.

    Attributes:
        name: of its arrays.
        title: for a person.
        unit: of its arrays.
        error: its error in metrics.json.
        error_unit: of that error.
        factor: ``error_unit`` per ``unit``.
    """

    name: str
    title: str
    unit: str
    error: str
    error_unit: str
    factor: float = 1.0


def parity(
    data: str | os.PathLike[str],
    metrics: str | os.PathLike[str],
    path: str | os.PathLike[str],
    quantities: Sequence[Quantity],
) -> None:
    """Draw prediction against reference with the errors below, every set of a quantity by itself between the same limits.

    Args:
        data: npz file with arrays [2, points] named "<split>/<name of the quantity>", which may be a part of the split.
        metrics: JSON file with the errors of the whole splits.
        path: PNG file to write.
        quantities: in the order of the rows; those without data are left out.
    """
    with np.load(data) as arrays:
        points = {name: arrays[name] for name in arrays.files}
    errors = json.loads(Path(metrics).read_text(encoding="utf-8"))
    errors = {name: errors[name] for name in ("train", "val")} | errors["test"]
    shown = []
    for quantity in quantities:
        series = {name.rsplit("/", 1)[0]: p for name, p in points.items() if name.endswith(f"/{quantity.name}")}
        series = {name: p[:, np.isfinite(p).all(axis=0)] for name, p in series.items()}
        series = {name: p for name, p in series.items() if p.shape[1] > 0}
        if series:
            shown.append((quantity, series))
    columns = min(COLUMNS, max(len(series) for _, series in shown))
    heights = [-(-len(series) // columns) for _, series in shown]
    figure = Figure(figsize=(_WIDTH * columns + 0.5, _HEIGHT * sum(heights)), layout="constrained")
    blocks = figure.subfigures(len(shown), 1, squeeze=False, height_ratios=heights)
    for block, height, (quantity, series) in zip(blocks[:, 0], heights, shown, strict=True):
        _draw_parity(block, height, columns, series, quantity, errors)
    write_png(figure, path)


def _draw_parity(
    block: SubFigure,
    rows: int,
    columns: int,
    series: dict[str, NDArray[np.float32]],
    quantity: Quantity,
    errors: Mapping[str, Mapping[str, float]],
) -> None:
    """Draw a quantity of all sets: prediction against reference above, their difference below."""
    everything = np.concatenate([points.ravel() for points in series.values()])
    low, high = float(everything.min()), float(everything.max())
    margin = 0.04 * (high - low) or 0.1
    ends = (low - margin, high + margin)
    largest = quantity.factor * max(float(abs(p[1] - p[0]).max()) for p in series.values())
    error_unit, factor = shown_unit([largest], quantity.error_unit)
    axes = block.subplots(2 * rows, columns, squeeze=False, sharex=True, sharey="row", height_ratios=(3, 1) * rows)
    for place in range(rows * columns):
        above, below = axes[2 * (place // columns) : 2 * (place // columns) + 2, place % columns]
        if place >= len(series):
            above.remove()
            below.remove()
            continue
        name, (reference, prediction) = list(series.items())[place]
        style: dict[str, Any] = {"color": COLORS[place % len(COLORS)], "linewidths": 0, "rasterized": True}
        style |= {"s": 14 if len(reference) < 2000 else 4, "alpha": 0.4}
        above.plot(ends, ends, color="0.6", linewidth=0.8, zorder=0)
        above.scatter(reference, prediction, **style)
        above.set(xlim=ends, ylim=ends)
        above.set_title(f"{name}: RMSE {amount(errors[name][quantity.error], quantity.error_unit)}", fontsize="medium")
        below.axhline(0.0, color="0.6", linewidth=0.8, zorder=0)
        below.scatter(reference, factor * quantity.factor * (prediction - reference), **style)
        below.set_xlabel(f"reference ({quantity.unit})")
        if place % columns == 0:
            above.set_ylabel(f"prediction ({quantity.unit})")
            below.set_ylabel(f"error ({error_unit})")
    block.suptitle(f"{quantity.title} ({quantity.unit})")


def calibration(data: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Draw how much of the errors lies within intervals, and how large errors are beside their std.

    Args:
        data: npz file with arrays [2, points], std and error, named "<set>/energy" (eV) and "<set>/forces" (eV/Å).
        path: PNG file to write.
    """
    with np.load(data) as arrays:
        points = {name: arrays[name].astype(np.float64) for name in arrays.files}
    figure = Figure(figsize=(13.0, 4.4), layout="constrained")
    left, *others = figure.subplots(1, 3)
    sizes = np.linspace(0.0, 4.0, 200)
    left.plot([0, 1], [0, 1], color="0.6", linewidth=0.8)
    expected = np.array([erf(size / sqrt(2.0)) for size in sizes])
    units = dict(zip(("forces", "energy"), ("eV/Å", "eV"), strict=True))
    panels = dict(zip(units, others, strict=True))
    for place, (name, (std, error)) in enumerate(points.items()):
        panel, style = panels[name.rpartition("/")[2]], {"color": COLORS[place % len(COLORS)], "label": name}
        ratios = np.sort(np.abs(error) / np.maximum(std, 1e-300))
        left.plot(expected, np.searchsorted(ratios, sizes) / len(ratios), linewidth=1.4, **style)
        groups = np.array_split(np.argsort(std), max(1, min(12, len(std) // 10)))
        found = [[np.sqrt(np.mean(values[group] ** 2)) for group in groups] for values in (std, error)]
        panel.plot(*found, "o-", markersize=3, linewidth=1.0, **style)
    left.set(xlabel="confidence of the interval", ylabel="part of the errors within", title="calibration")
    left.legend(fontsize="small")
    for name, panel in panels.items():
        if panel.lines:
            ends = panel.get_xlim()
            panel.plot(ends, ends, color="0.6", linewidth=0.8)
            panel.set(xscale="log", yscale="log", xlabel=f"std ({units[name]})", ylabel="RMS of the errors", title=name)
            for axis in (panel.xaxis, panel.yaxis):
                axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
                axis.set_major_formatter("{x:g}")
                axis.set_minor_formatter(NullFormatter())
        else:
            panel.remove()
    for axes in figure.axes:
        axes.grid(which="both", color="0.92")
    write_png(figure, path)


def profile(curves: Mapping[str, NDArray[np.float64]], path: str | os.PathLike[str], label: str) -> None:
    """Draw energies along a coordinate, every scan by itself between the same limits, with the error of the prediction.

    Args:
        curves: name -> coordinate, reference and prediction [3, points], energies in eV; NaN where there is no reference.
        path: PNG file to write.
        label: of the coordinate.
    """
    columns = min(COLUMNS, len(curves))
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(_WIDTH * columns + 0.5, 3.0 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    largest = max(float(np.nanmax(np.abs(curve[1:]))) for curve in curves.values())
    unit, factor = shown_unit([1000.0 * largest], "meV")
    for place, (name, (coordinate, reference, prediction)) in enumerate(curves.items()):
        shown = axes[place // columns, place % columns]
        known = np.isfinite(reference)
        if known.any():
            scaled = 1000.0 * factor * reference[known]
            shown.plot(coordinate[known], scaled, "o", color="0.35", markersize=4, label="reference")
        shown.plot(coordinate, 1000.0 * factor * prediction, color=COLORS[0], linewidth=1.4, label="prediction")
        error = 1000.0 * np.sqrt(np.mean((prediction - reference)[known] ** 2)) if known.any() else np.nan
        shown.set_title(f"{name}: RMSE {amount(error, 'meV')}" if known.any() else name, fontsize="medium")
        shown.set_xlabel(label)
        shown.grid(color="0.92")
        if place % columns == 0:
            shown.set_ylabel(f"relative energy ({unit})")
    axes[0, 0].legend(fontsize="small")
    for empty in axes.ravel()[len(curves) :]:
        empty.remove()
    write_png(figure, path)


def learning_curve(
    log: str | os.PathLike[str], path: str | os.PathLike[str], curves: Sequence[tuple[str, str]]
) -> None:
    """Draw losses and validation errors over the epochs.

    Args:
        log: log.csv of a run.
        path: PNG file to write.
        curves: errors, without "val_", and their labels.
    """
    columns = _read_columns(Path(log))
    epoch = columns["epoch"]
    figure = Figure(figsize=(11.2, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_curve(left, epoch, columns["train_loss"], "training loss (raw weights)", COLORS[0])
    _draw_curve(left, epoch, columns["val_loss"], "validation loss (averaged, final loss weights)", COLORS[1])
    left.set(title="loss", xlabel="epoch", yscale="log")
    rate = left.twinx()
    rate.plot(epoch, columns["learning_rate"], color="0.7", linewidth=1.0, linestyle="--")
    rate.set_ylabel("learning rate (dashed)", color="0.5")
    rate.set(yscale="log")
    for index, (name, label) in enumerate(curves):
        _draw_curve(right, epoch, columns[f"val_{name}"], label, COLORS[(2 + 3 * index) % len(COLORS)])
    best = epoch[np.nan_to_num(columns["best"]) > 0]
    if len(best) > 0:
        right.axvline(best[-1], color="0.6", linewidth=0.8, linestyle=":", label=f"best model: epoch {int(best[-1])}")
    right.set(title="validation errors", xlabel="epoch", yscale="log")
    for axes in (left, right):
        axes.grid(which="both", color="0.92")
        axes.legend(fontsize="small")
    write_png(figure, path)


def dynamics(table: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Draw temperature, energies relative to the start and, where it is known, the uncertainty of forces against time.

    Args:
        table: md.csv of a simulation.
        path: PNG file to write.
    """
    columns = _read_columns(Path(table))
    panels = {
        "temperature / K": {"": columns["temperature_K"]},
        "energy - start / eV": {
            name: columns[f"{name}_eV"] - columns[f"{name}_eV"][0] for name in ("potential", "total")
        },
        "largest std of a force / (eV/Å)": {"": columns["largest_force_std_eV_A"]},
    }
    shown = {title: lines for title, lines in panels.items() if any(np.isfinite(v).any() for v in lines.values())}
    figure = Figure(figsize=(7.0, 2.3 * len(shown)), layout="constrained")
    grid = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (title, lines) in zip(grid, shown.items(), strict=True):
        for color, (label, values) in zip(COLORS, lines.items(), strict=False):
            _draw_curve(axes, columns["time_ps"], values, label, color)
        axes.set_ylabel(title)
        axes.grid(color="0.92")
        if len(lines) > 1:
            axes.legend(fontsize="small")
    grid[-1].set_xlabel("time / ps")
    write_png(figure, path)


def _draw_curve(axes: Axes, epoch: NDArray[np.float64], values: NDArray[np.float64], label: str, color: str) -> None:
    """Draw what is there of a column; a single epoch is a dot."""
    there = np.isfinite(values)
    if there.any():
        marker = "o" if there.sum() < 20 else None
        axes.plot(epoch[there], values[there], label=label, color=color, linewidth=1.4, marker=marker, markersize=3)


def _read_columns(path: Path) -> dict[str, NDArray[np.float64]]:
    """Return the columns of a CSV file; empty cells are NaN."""
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
        names: Sequence[str] = reader.fieldnames or ()
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in names}


def write_png(figure: Figure, path: str | os.PathLike[str], font_size: int = 10) -> None:
    """Write a PNG file in one step."""
    buffer = BytesIO()
    with mpl.rc_context({"font.size": font_size}):
        figure.savefig(buffer, format="png", dpi=130)
    with replacing(path, "wb") as file:
        file.write(buffer.getvalue())
