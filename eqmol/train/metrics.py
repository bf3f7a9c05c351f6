"""Errors of energies, forces and stress over a set of structures.

Energies are compared per structure (meV) and per atom (meV per atom), forces over all components of all atoms that were
not held fixed (meV/Å), stress over all nine components (meV/Å³).

The metrics of the Open Catalyst Project (Chanussot et al. 2021, arXiv:2010.09990) go by its names and units: energy_mae (eV),
forces_mae (eV/Å), forces_cos (mean cosine between predicted and true force of an atom), efwt (fraction of structures whose
energy is within 0.02 eV and whose force components are all within 0.03 eV/Å); forces_mae_of_zero is the forces_mae of
predicting none.
"""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eqmol.graph import keys
from eqmol.units import MEV

ENERGY_THRESHOLD = 0.02  #: eV
FORCE_THRESHOLD = 0.03  #: eV/Å


class Errors:
    """Sums of errors per structure, filled batch by batch.

    Args:
        oc20: also return the metrics of the Open Catalyst Project.
    """

    def __init__(self, oc20: bool = False) -> None:
        self.oc20 = oc20
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
            columns.extend(_sums(output.get(name), _label(batch, name), owner, len(natoms)))
        columns.extend(_agreement(output.get(keys.FORCES), _label(batch, keys.FORCES), batch.batch, len(natoms)))
        self._rows.append(torch.stack(columns, dim=1).cpu().numpy())
        self.config_types.extend(batch.config_type)

    def extend(self, other: Self) -> None:
        """Add those that another process summed."""
        self._rows.extend(other._rows)
        self.config_types.extend(other.config_types)

    @property
    def num_structures(self) -> int:
        """How many structures were added."""
        return sum(len(rows) for rows in self._rows)

    def summary(self) -> dict[str, float]:
        """Return the errors of all structures; quantities without any label are absent."""
        return self._summary(np.concatenate(self._rows)) if self._rows else {}

    def by_config_type(self) -> dict[str, dict[str, float]]:
        """Return the errors per ``config_type``; empty unless some structure names one."""
        names = np.array(self.config_types)
        if not any(self.config_types):
            return {}
        rows = np.concatenate(self._rows)
        return {name or "(none)": self._summary(rows[names == name]) for name in sorted(set(self.config_types))}

    def _summary(self, rows: NDArray[np.float64]) -> dict[str, float]:
        return _summary(rows) | (_oc20_summary(rows) if self.oc20 else {})


def _label(batch: Any, name: str) -> Tensor | None:
    """Return the labels of a batch, NaN where they do not count."""
    if name not in batch:
        return None
    label: Tensor = batch[name]
    if name == keys.FORCES and keys.FIXED in batch:
        label = label.masked_fill(batch.fixed[:, None], torch.nan)
    return label


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


def _agreement(prediction: Tensor | None, label: Tensor | None, owner: Tensor, num_structures: int) -> list[Tensor]:
    """Return per structure, each [num_structures]: number of compared vectors, Σ cosine, largest |error| of a component,
    Σ |component of the label|.
    """
    sums = [torch.zeros(num_structures, dtype=torch.float64, device=owner.device) for _ in range(4)]
    if prediction is None or label is None:
        return sums
    count, cosine, largest, size = sums
    known = label.isfinite().all(dim=1)
    label, prediction, owner = label[known], prediction.detach()[known], owner[known]
    count.index_add_(0, owner, torch.ones_like(label[:, 0]))
    cosine.index_add_(0, owner, torch.cosine_similarity(prediction, label, dim=1))
    largest.scatter_reduce_(0, owner, (prediction - label).abs().amax(dim=1), "amax")
    size.index_add_(0, owner, label.abs().sum(dim=1))
    return sums


def _summary(rows: NDArray[np.float64]) -> dict[str, float]:
    """Return the named errors of the rows [structures, natoms + 3 · (count, Σ|e|, Σe², Σlabel²) + ...] of :class:`Errors`."""
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


def _oc20_summary(rows: NDArray[np.float64]) -> dict[str, float]:
    """Return the metrics of the Open Catalyst Project of the rows of :class:`Errors`."""
    (has_energy, energy), (components, forces) = rows[:, 1:3].T, rows[:, 5:7].T
    vectors, cosine, largest, size = rows[:, 13:].T
    summary: dict[str, float] = {}
    if has_energy.any():
        summary["energy_mae"] = float(energy.sum() / has_energy.sum())
    if vectors.any():
        summary |= {
            "forces_mae": float(forces.sum() / components.sum()),
            "forces_mae_of_zero": float(size.sum() / components.sum()),
            "forces_cos": float(cosine.sum() / vectors.sum()),
        }
    both = (has_energy > 0) & (vectors > 0)
    if both.any():
        summary["efwt"] = float(np.mean((energy[both] < ENERGY_THRESHOLD) & (largest[both] < FORCE_THRESHOLD)))
    return summary


def _mean_and_root(name: str, unit: str, mean_absolute: float, mean_square: float) -> dict[str, float]:
    """Return the two errors in milli-units."""
    return {f"{name}_mae_{unit}": MEV * float(mean_absolute), f"{name}_rmse_{unit}": MEV * float(np.sqrt(mean_square))}
