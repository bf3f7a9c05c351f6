"""Figures of a run, from the files that it wrote; never from a model."""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from eqmol.files import replacing

#: Colour-blind safe (Okabe and Ito).
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")

#: Quantities side by side in a parity plot.
COLUMNS = 4


@dataclass(frozen=True)
class Quantity:
    """What a parity plot shows.

    Attributes:
        name: of its arrays.
        title: for a person.
        unit: of its arrays.
        error_unit: of the errors shown.
        factor: ``error_unit`` per ``unit``.
    """

    name: str
    title: str
    unit: str
    error_unit: str
    factor: float = 1.0


def parity(data: str | os.PathLike[str], path: str | os.PathLike[str], quantities: Sequence[Quantity]) -> None:
    """Draw prediction against reference, one column per quantity, with the errors below.

    Args:
        data: npz file with arrays [2, points] named "<split>/<name of the quantity>".
        path: PNG file to write.
        quantities: in the order of the columns; those without data are left out.
    """
    with np.load(data) as arrays:
        points = {name: arrays[name] for name in arrays.files}
    shown = [q for q in quantities if any(name.endswith(f"/{q.name}") for name in points)]
    columns = min(len(shown), COLUMNS)
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(5.6 * columns, 7.2 * rows), layout="constrained")
    axes = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=(3, 1) * rows)
    for place in range(rows * columns):
        above, below = axes[2 * (place // columns) : 2 * (place // columns) + 2, place % columns]
        if place >= len(shown):
            above.remove()
            below.remove()
            continue
        quantity = shown[place]
        series = {n.rsplit("/", 1)[0]: p for n, p in points.items() if n.endswith(f"/{quantity.name}")}
        _draw_parity((above, below), series, quantity)
    _write(figure, path)


def _draw_parity(axes: tuple[Axes, Axes], series: dict[str, NDArray[np.float32]], quantity: Quantity) -> None:
    """Draw prediction against reference above, their difference below."""
    above, below = axes
    unit, factor = quantity.unit, quantity.factor
    everything = np.concatenate([points.ravel() for points in series.values()])
    low, high = float(np.nanmin(everything)), float(np.nanmax(everything))
    margin = 0.04 * (high - low) or 0.1
    ends = (low - margin, high + margin)
    errors = {name: factor * float(np.sqrt(np.nanmean((p[1] - p[0]) ** 2))) for name, p in series.items()}
    # what covers most lies at the bottom
    bottom_up = sorted(series, key=lambda name: errors[name] * series[name].shape[1], reverse=True)
    for index, (name, (reference, prediction)) in enumerate(series.items()):
        style: dict[str, Any] = {"color": COLORS[index % len(COLORS)], "linewidths": 0, "rasterized": True}
        style |= {"s": 14 if len(reference) < 2000 else 4, "alpha": 0.5, "zorder": 1 + bottom_up.index(name)}
        above.scatter(reference, prediction, label=f"{name}: RMSE {errors[name]:.4g} {quantity.error_unit}", **style)
        below.scatter(reference, factor * (prediction - reference), **style)
    above.plot(ends, ends, color="0.6", linewidth=0.8, zorder=0)
    below.axhline(0.0, color="0.6", linewidth=0.8, zorder=0)
    above.set(title=f"{quantity.title} ({unit})", ylabel=f"prediction ({unit})", xlim=ends, ylim=ends)
    above.legend(loc="upper left", fontsize="small", frameon=False, markerscale=2)
    below.set(xlabel=f"reference ({unit})", ylabel=f"error ({quantity.error_unit})", xlim=ends)


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
    _write(figure, path)


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


def _write(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a PNG file in one step."""
    buffer = BytesIO()
    with mpl.rc_context({"font.size": 10}):
        figure.savefig(buffer, format="png", dpi=130)
    with replacing(path, "wb") as file:
        file.write(buffer.getvalue())
