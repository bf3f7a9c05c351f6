"""Errors of predictions over a set of structures.

Energies are compared per structure (meV) and per atom (meV per atom), forces over all components of all atoms that were not
held fixed (meV/Å), stress over all nine components (meV/Å³), properties over all labelled components, in the units of tables.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eqmol.data.comparison import Metrics
from eqmol.graph.targets import Target
from eqmol.units import quantity

#: What is summed per structure: number of compared components, |error|, error², label², error.
SUMS = 5
#: Errors are called constant from so many structures on, where they vary by less than this part of their mean.
ENOUGH, CONSTANT = 3, 0.25
#: Kinds of one number for a structure.
SINGLE = ("energy", "extensive", "intensive", "dipole_norm", "extent")
#: What follows the names of errors in metrics.json and log.csv, by unit.
SUFFIXES = {"meV": "_mev", "meV/atom": "_mev_per_atom", "meV/Å": "_mev_per_a", "meV/Å³": "_mev_per_a3"}


class Entry(NamedTuple):
    """The errors of one quantity: a target, or its value per atom.

    Attributes:
        name: "forces", "energy per atom".
        target: whose it is.
        unit: of the errors.
        values: how many are compared.
        mae, rmse: mean absolute and root mean square error.
        rms: root mean square of the labels; NaN for energies, whose origin is arbitrary.
    """

    name: str
    target: Target
    unit: str
    values: int
    mae: float
    rmse: float
    rms: float

    def named(self) -> dict[str, float]:
        """Return the errors by their names in metrics.json."""
        suffix = _suffix(self.target, self.unit)
        named = {f"{self.target.name}_mae{suffix}": self.mae, f"{self.target.name}_rmse{suffix}": self.rmse}
        has_rms = not self.target.is_property and np.isfinite(self.rms)
        return named | ({f"{self.target.name}_rms{suffix}": self.rms} if has_rms else {})


class Offset(NamedTuple):
    """Errors of one target that are nearly the same for all structures.

    Attributes:
        target: whose they are.
        value, spread: mean of the errors, and their standard deviation.
        unit: of both.
    """

    target: Target
    value: float
    spread: float
    unit: str

    def named(self) -> dict[str, float]:
        """Return both by their names in metrics.json."""
        return dict(zip(_offset_names(self.target, self.unit), (self.value, self.spread), strict=True))

    def words(self) -> str:
        """For a person."""
        sign, spread = "+" if self.value > 0 else "-", quantity(self.spread, self.unit)
        return (
            f"{self.target.name}: the errors are nearly one constant, {sign}{quantity(abs(self.value), self.unit)}, and vary by "
            f"{spread}; do the labels come from another level of theory, or have they another zero than those that were learnt?"
        )


def offset_of(target: Target, summary: Mapping[str, float]) -> Offset | None:
    """Return the constant that a summary tells of a target, if it tells one."""
    for unit in (f"{target.shown_unit}/atom", target.shown_unit) if target.kind in SINGLE else ():
        value, spread = (summary.get(name) for name in _offset_names(target, unit))
        if value is not None and spread is not None:
            return Offset(target, value, spread, unit)
    return None


def _offset_names(target: Target, unit: str) -> tuple[str, str]:
    suffix = ("_per_atom" if unit.endswith("/atom") else "") if target.is_property else SUFFIXES[unit]
    return f"{target.name}_offset{suffix}", f"{target.name}_offset_spread{suffix}"


def error_names(target: Target) -> tuple[str, str]:
    """Names of the two errors by which a target is judged; of an energy those per atom."""
    suffix = _suffix(target, error_unit(target))
    return f"{target.name}_mae{suffix}", f"{target.name}_rmse{suffix}"


def error_unit(target: Target) -> str:
    """Unit of the errors by which a target is judged."""
    return "meV/atom" if target.kind == "energy" else target.shown_unit


def _suffix(target: Target, unit: str) -> str:
    return "" if target.is_property else SUFFIXES[unit]


class Errors:
    """Sums of errors per structure, filled batch by batch.

    Args:
        targets: what is compared.
        metrics: of the data set.
    """

    def __init__(self, targets: Sequence[Target], metrics: Metrics | None = None) -> None:
        self.targets = tuple(targets)
        self.metrics = metrics
        self.config_types: list[str] = []
        self._rows: list[NDArray[np.float64]] = []

    def update(self, output: Mapping[str, Tensor], batch: Any) -> None:
        """Add a batch.

        Args:
            output: what the model returned; labels that are absent or NaN are left out.
            batch: graphs with labels.
        """
        natoms = batch.ptr.diff()
        structure = torch.arange(batch.num_graphs, device=natoms.device)
        columns = [natoms.to(torch.float64)]
        for target in self.targets:
            owner = batch.batch if target.is_atomic else structure
            columns.extend(_sums(output.get(target.name), target.labels(batch), owner, len(natoms)))
        if self.metrics is not None:
            columns.extend(self.metrics.rows(output, batch).T)
        self._rows.append(torch.stack(columns, dim=1).cpu().numpy())
        self.config_types.extend(batch.config_type)

    def add(self, result: Mapping[str, Any], labels: Mapping[str, Any], natoms: int) -> None:
        """Add one structure; labels without prediction and predictions without label are left out."""
        row = np.zeros((1, 1 + SUMS * len(self.targets)))
        row[0, 0] = natoms
        for number, target in enumerate(self.targets):
            if target.name in labels and target.name in result:
                label = np.asarray(labels[target.name], np.float64)
                error = (np.asarray(result[target.name]) - label)[np.isfinite(label)]
                squares = (np.square(error).sum(), np.nansum(np.square(label)))
                self._of(number, row)[0] = (error.size, np.abs(error).sum(), *squares, error.sum())
        self._rows.append(row)
        self.config_types.append("")

    def extend(self, other: Self) -> None:
        """Add those that another process summed."""
        self._rows.extend(other._rows)
        self.config_types.extend(other.config_types)

    def entries(self) -> list[Entry]:
        """Return the errors of every quantity with labels."""
        return list(self._entries(np.concatenate(self._rows))) if self._rows else []

    def summary(self) -> dict[str, float]:
        """Return the errors of all structures by name, and "structures", their number; targets without any label are absent."""
        return self._summary(np.concatenate(self._rows)) if self._rows else {}

    def by_config_type(self) -> dict[str, dict[str, float]]:
        """Return the errors per ``config_type``; empty unless some structure names one."""
        names = np.array(self.config_types)
        if not any(self.config_types):
            return {}
        rows = np.concatenate(self._rows)
        return {name or "(none)": self._summary(rows[names == name]) for name in sorted(set(self.config_types))}

    def _summary(self, rows: NDArray[np.float64]) -> dict[str, float]:
        summary: dict[str, float] = {"structures": len(rows)}
        for entry in self._entries(rows):
            summary |= entry.named()
        for number, target in enumerate(self.targets):
            offset = _constant(target, self._of(number, rows), rows[:, 0])
            summary |= {} if offset is None else offset.named()
        if self.metrics is not None:
            sums = {target.name: self._of(number, rows) for number, target in enumerate(self.targets)}
            summary |= self.metrics.summary(sums, rows[:, 1 + SUMS * len(self.targets) :])
        return summary

    def _entries(self, rows: NDArray[np.float64]) -> Iterator[Entry]:
        """Yield the errors of the rows [structures, natoms + targets · SUMS + ...]."""
        for number, target in enumerate(self.targets):
            sums = self._of(number, rows)
            labelled = sums[:, 0] > 0
            if not labelled.any():
                continue
            if target.kind == "energy":
                error = sums[labelled, 1]
                per_atom = error / rows[labelled, 0]
                for name, values, unit in (
                    (target.name, error, "meV"),
                    (f"{target.name} per atom", per_atom, "meV/atom"),
                ):
                    mean_square = np.square(values).mean()
                    yield _entry(name, target, unit, len(error), values.mean(), mean_square, np.nan)
            else:
                count, absolute, square, label, _ = sums.sum(axis=0)
                unit = target.shown_unit
                yield _entry(target.name, target, unit, int(count), absolute / count, square / count, label / count)

    def _of(self, number: int, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sums [structures, SUMS] of one target, in the rows themselves."""
        return rows[:, 1 + SUMS * number : 1 + SUMS * (number + 1)]


def _entry(name: str, target: Target, unit: str, count: int, absolute: float, square: float, label: float) -> Entry:
    """Return an entry from means in the unit of the target."""
    factor = target.shown_factor
    errors = (factor * float(absolute), factor * float(np.sqrt(square)), factor * float(np.sqrt(label)))
    return Entry(name, target, unit, count, *errors)


def _constant(target: Target, sums: NDArray[np.float64], natoms: NDArray[np.float64]) -> Offset | None:
    """Return what the errors have in common, per atom or per structure, if it is nearly all of them."""
    labelled = sums[:, 0] > 0
    if target.kind not in SINGLE or labelled.sum() < ENOUGH:
        return None
    errors, units = target.shown_factor * sums[labelled, 4], (f"{target.shown_unit}/atom", target.shown_unit)
    forms = [(errors / natoms[labelled], units[0])] if target.kind in ("energy", "extensive") else []
    offsets = [Offset(target, float(e.mean()), float(e.std()), unit) for e, unit in (*forms, (errors, units[1]))]
    best = min(offsets, key=lambda offset: offset.spread / abs(offset.value) if offset.value else math.inf)
    return best if best.spread < CONSTANT * abs(best.value) else None


def _sums(prediction: Tensor | None, label: Tensor | None, owner: Tensor, num_structures: int) -> list[Tensor]:
    """Return what :data:`SUMS` counts, each [num_structures]."""
    sums = [torch.zeros(num_structures, dtype=torch.float64, device=owner.device) for _ in range(SUMS)]
    if prediction is None or label is None:
        return sums
    difference = (prediction.detach() - label).reshape(len(label), -1)
    reference = label.reshape(len(label), -1)
    known = reference.isfinite()
    difference = torch.where(known, difference, 0.0)
    reference = torch.where(known, reference, 0.0)
    terms = (known.to(torch.float64), difference.abs(), difference.square(), reference.square(), difference)
    return [total.index_add_(0, owner, term.sum(dim=1)) for total, term in zip(sums, terms, strict=True)]
