"""The metrics of the Open Catalyst Project (Chanussot et al. 2021, arXiv:2010.09990), by its names and units.

energy_mae (eV), forces_mae (eV/Å), forces_cos (mean cosine between predicted and true force of an atom), efwt (fraction of
structures whose energy is within 0.02 eV and whose force components are all within 0.03 eV/Å), of atoms that were not held
fixed; forces_mae_of_zero is the forces_mae of predicting none.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eqmol.graph.targets import FORCES

ENERGY_THRESHOLD = 0.02  #: eV
FORCE_THRESHOLD = 0.03  #: eV/Å


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
