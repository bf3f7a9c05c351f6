"""Errors of energies, forces and stress over a set of structures.

Energies are compared per structure (meV) and per atom (meV per atom), forces over all components of all atoms (meV/Å),
stress over all nine components (meV/Å³).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eqmol.graph import keys
from eqmol.units import MEV


class Errors:
    """Sums of errors per structure, filled batch by batch."""

    def __init__(self) -> None:
        self._rows: list[NDArray[np.float64]] = []
        self.config_types: list[str] = []

    def update(self, output: Mapping[str, Tensor], batch: Any) -> None:
        """Add a batch.

        Args:
            output: what the model returned; labels that are absent or NaN are left out.
            batch: graphs with labels.
        """
        natoms = batch.ptr.diff()
        structure = torch.arange(batch.num_graphs, device=natoms.device)
        columns = [natoms.to(torch.float64)]
        for name, owner in ((keys.ENERGY, structure), (keys.FORCES, batch.batch), (keys.STRESS, structure)):
            label = batch[name] if name in batch else None  # noqa: SIM401  graphs have no get
            columns.extend(_sums(output.get(name), label, owner, len(natoms)))
        self._rows.append(torch.stack(columns, dim=1).cpu().numpy())
        self.config_types.extend(batch.config_type)

    @property
    def num_structures(self) -> int:
        """How many structures were added."""
        return sum(len(rows) for rows in self._rows)

    def summary(self) -> dict[str, float]:
        """Return the errors of all structures; quantities without any label are absent."""
        return _summary(np.concatenate(self._rows)) if self._rows else {}

    def by_config_type(self) -> dict[str, dict[str, float]]:
        """Return the errors per ``config_type``; empty unless some structure names one."""
        names = np.array(self.config_types)
        if not any(self.config_types):
            return {}
        rows = np.concatenate(self._rows)
        return {name or "(none)": _summary(rows[names == name]) for name in sorted(set(self.config_types))}


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


def _summary(rows: NDArray[np.float64]) -> dict[str, float]:
    """Return the named errors of the rows [structures, natoms + 3 · (count, Σ|e|, Σe², Σlabel²)] of :class:`Errors`."""
    natoms = rows[:, 0]
    energy, forces, stress = (rows[:, 1 + 4 * k : 5 + 4 * k] for k in range(3))
    summary: dict[str, float] = {"structures": len(rows)}
    labelled = energy[:, 0] > 0
    if labelled.any():
        error = energy[labelled, 1]
        summary |= _mean_and_root("energy", "mev", error.mean(), np.square(error).mean())
        per_atom = error / natoms[labelled]
        summary |= _mean_and_root("energy", "mev_per_atom", per_atom.mean(), np.square(per_atom).mean())
    for name, unit, (count, absolute, square, reference) in (
        ("forces", "mev_per_a", forces.sum(axis=0)),
        ("stress", "mev_per_a3", stress.sum(axis=0)),
    ):
        if count > 0:
            summary |= _mean_and_root(name, unit, absolute / count, square / count)
            summary[f"{name}_rms_{unit}"] = MEV * float(np.sqrt(reference / count))
    return summary


def _mean_and_root(name: str, unit: str, mean_absolute: float, mean_square: float) -> dict[str, float]:
    """Return the two errors in milli-units."""
    return {f"{name}_mae_{unit}": MEV * float(mean_absolute), f"{name}_rmse_{unit}": MEV * float(np.sqrt(mean_square))}
