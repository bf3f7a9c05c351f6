"""The metrics of the Open Catalyst Project (Chanussot et al. 2021, arXiv:2010.09990), by its names and units.

energy_mae (eV), forces_mae (eV/Å), forces_cos (mean cosine between predicted and true force of an atom), efwt (fraction of
structures whose energy is within 0.02 eV and whose force components are all within 0.03 eV/Å), of atoms that were not held
fixed; forces_mae_of_zero is the forces_mae of predicting none.

Relaxed structures (IS2RS) are judged by the distance of their free atoms from the reference (:func:`mean_distance`): ADwT is the
fraction of structures below a threshold, averaged over thresholds (:func:`average_distance_within_threshold`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eqmol.graph.neighbors import complete_cell
from eqmol.graph.targets import FORCES

ENERGY_THRESHOLD = 0.02  #: eV
FORCE_THRESHOLD = 0.03  #: eV/Å
DISTANCE_THRESHOLDS = (
    np.arange(10, 500) / 1000
)  #: Å, from 0.01 to 0.499; those of the Open Catalyst Project's evaluator


class OpenCatalystMetrics:
    """See :class:`eqmol.data.comparison.Metrics`."""

    title = "Open Catalyst metrics"
    columns: tuple[tuple[str, str, str], ...] = (
        ("energy_mae\neV", "energy_mae", "{:.4f}"),
        ("forces_mae\neV/Å", "forces_mae", "{:.4f}"),
        ("forces_cos", "forces_cos", "{:.3f}"),
        ("efwt", "efwt", "{:.2%}"),
    )

    def rows(self, output: Mapping[str, Tensor], batch: Any) -> Tensor:
        """Return per structure: number of compared vectors, Σ cosine, largest |error| of a component, Σ |component of the
        label|.
        """
        sums = torch.zeros(4, batch.num_graphs, dtype=torch.float64, device=batch.pos.device)
        label, prediction, owner = FORCES.labels(batch), output.get("forces"), batch.batch
        if label is None or prediction is None:
            return sums.T
        count, cosine, largest, size = sums
        known = label.isfinite().all(dim=1)
        label, prediction, owner = label[known], prediction.detach()[known], owner[known]
        count.index_add_(0, owner, torch.ones_like(label[:, 0]))
        cosine.index_add_(0, owner, torch.cosine_similarity(prediction, label, dim=1))
        largest.scatter_reduce_(0, owner, (prediction - label).abs().amax(dim=1), "amax")
        size.index_add_(0, owner, label.abs().sum(dim=1))
        return sums.T

    def summary(self, sums: Mapping[str, NDArray[np.float64]], rows: NDArray[np.float64]) -> dict[str, float]:
        """Return the metrics for which there are labels."""
        (has_energy, energy), (components, forces) = sums["energy"][:, :2].T, sums["forces"][:, :2].T
        vectors, cosine, largest, size = rows.T
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


def mean_distance(
    positions: NDArray[np.float64],
    reference: NDArray[np.float64],
    cell: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    free: NDArray[np.bool_],
) -> float:
    """Return the mean distance (Å) of free atoms from their places in the reference; 0 without any.

    Args:
        positions, reference: [N, 3] Å.
        cell: [3, 3] Å; differences are taken to the nearest image by rounding fractional coordinates.
        pbc: [3] bool.
        free: [N] bool, atoms that count.
    """
    difference = (positions - reference)[free]
    if len(difference) == 0:
        return 0.0
    box = complete_cell(cell, pbc)
    fractional = difference @ np.linalg.inv(box)
    difference = (fractional - np.where(pbc, np.rint(fractional), 0.0)) @ box
    return float(np.linalg.norm(difference, axis=1).mean())


def average_distance_within_threshold(distances: Sequence[float]) -> float:
    """Return ADwT of structures by their mean distances (Å); infinity for one that could not be relaxed."""
    return float((np.array(distances)[:, None] < DISTANCE_THRESHOLDS).mean())
