"""Errors of predictions over a set of structures.

Energies are compared per structure (meV) and per atom (meV per atom), forces over all components of all atoms that were not
held fixed (meV/Å), stress over all nine components (meV/Å³), properties over all labelled components, in the units of tables.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eqmol.data.comparison import Metrics
from eqmol.graph.targets import Target

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
        row = np.zeros((1, 1 + 4 * len(self.targets)))
        row[0, 0] = natoms
        for number, target in enumerate(self.targets):
            if target.name in labels and target.name in result:
                label = np.asarray(labels[target.name], np.float64)
                error = (np.asarray(result[target.name]) - label)[np.isfinite(label)]
                sums = (error.size, np.abs(error).sum(), np.square(error).sum(), np.nansum(np.square(label)))
                row[0, 1 + 4 * number : 5 + 4 * number] = sums
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
        if self.metrics is not None:
            sums = {target.name: self._of(number, rows) for number, target in enumerate(self.targets)}
            summary |= self.metrics.summary(sums, rows[:, 1 + 4 * len(self.targets) :])
        return summary

    def _entries(self, rows: NDArray[np.float64]) -> Iterator[Entry]:
        """Yield the errors of the rows [structures, natoms + targets · (count, Σ|e|, Σe², Σlabel²) + ...]."""
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
                count, absolute, square, label = sums.sum(axis=0)
                unit = target.shown_unit
                yield _entry(target.name, target, unit, int(count), absolute / count, square / count, label / count)

    def _of(self, number: int, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sums [structures, 4] of one target."""
        return rows[:, 1 + 4 * number : 5 + 4 * number]


def _entry(name: str, target: Target, unit: str, count: int, absolute: float, square: float, label: float) -> Entry:
    """Return an entry from means in the unit of the target."""
    factor = target.shown_factor
    errors = (factor * float(absolute), factor * float(np.sqrt(square)), factor * float(np.sqrt(label)))
    return Entry(name, target, unit, count, *errors)


def _sums(prediction: Tensor | None, label: Tensor | None, owner: Tensor, num_structures: int) -> list[Tensor]:
    """Return per structure: number of compared components, Σ|error|, Σ error², Σ label²; each [num_structures]."""
    sums = [torch.zeros(num_structures, dtype=torch.float64, device=owner.device) for _ in range(4)]
    if prediction is None or label is None:
        return sums
    difference = (prediction.detach() - label).reshape(len(label), -1)
    reference = label.reshape(len(label), -1)
    known = reference.isfinite()
    difference = torch.where(known, difference, 0.0)
    reference = torch.where(known, reference, 0.0)
    terms = (known.to(torch.float64), difference.abs(), difference.square(), reference.square())
    return [total.index_add_(0, owner, term.sum(dim=1)) for total, term in zip(sums, terms, strict=True)]
